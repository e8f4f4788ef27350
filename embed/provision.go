package embed

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/staffetta-relay/staffetta"
)

// provisioners is how many streams are made at once: making one waits for the disk.
const provisioners = 8

// Provision makes the streams and buckets of a layout that are missing and updates those that
// differ. It may run as often as one likes, and by several processes at once. Start does it for the
// embedded server; call it for an external cluster.
func Provision(ctx context.Context, js jetstream.JetStream, l Layout) error {
	l, err := l.withDefaults()
	if err != nil {
		return err
	}
	have, err := streamInfos(ctx, js)
	if err != nil {
		return err
	}
	if err := checkShards(l, have[staffetta.CursorStream]); err != nil {
		return err
	}
	return provision(ctx, js, l, have)
}

func provision(ctx context.Context, js jetstream.JetStream, l Layout, have map[string]*jetstream.StreamInfo) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(provisioners)
	for _, want := range l.streams() {
		info := have[want.Name]
		if info != nil && sameConfig(info.Config, want) {
			continue
		}
		g.Go(func() error {
			if _, err := js.CreateOrUpdateStream(ctx, want); err != nil {
				return fmt.Errorf("provision stream %s: %w", want.Name, err)
			}
			return nil
		})
	}
	if info := have[registryStream]; !l.Journal && (info == nil || info.Config.Replicas != l.Replicas) {
		g.Go(func() error {
			if _, err := js.CreateOrUpdateKeyValue(ctx, l.registry()); err != nil {
				return fmt.Errorf("provision bucket %s: %w", staffetta.RegistryBucket, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// streamInfos reads every stream of the account.
func streamInfos(ctx context.Context, js jetstream.JetStream) (map[string]*jetstream.StreamInfo, error) {
	infos := make(map[string]*jetstream.StreamInfo)
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		infos[info.Config.Name] = info
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return infos, nil
}

// checkShards refuses a number of shards other than that of the cursors which are there.
func checkShards(l Layout, cursors *jetstream.StreamInfo) error {
	if cursors == nil {
		return nil
	}
	have, ok := cursors.Config.Metadata[shardsKey]
	if !ok || have == strconv.Itoa(l.Shards) {
		return nil
	}
	return fmt.Errorf("%w: its streams were made for %s shards and cannot be spread over %d; start with --shards %s",
		ErrLayout, have, l.Shards, have)
}

// sameConfig compares but for the metadata that the server adds of its own.
func sameConfig(have, want jetstream.StreamConfig) bool {
	have.Metadata = maps.Clone(have.Metadata)
	maps.DeleteFunc(have.Metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") })
	if !maps.Equal(have.Metadata, want.Metadata) {
		return false
	}
	have.Metadata, want.Metadata = nil, nil
	return reflect.DeepEqual(have, want)
}
