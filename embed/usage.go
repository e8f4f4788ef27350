package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Usage is what the store holds and what it may.
type Usage struct {
	// StoreBytes is what the streams hold, against StoreLimit, which is Config.MaxStore.
	StoreBytes, StoreLimit int64
	// MemoryBytes is what consumers keep in memory, against MemoryLimit.
	MemoryBytes, MemoryLimit int64
	// FreeDisk is what the file system has left for this process.
	FreeDisk int64
	// Streams, Consumers and Messages are counts.
	Streams, Consumers int
	Messages           uint64
}

// Usage measures the store. It walks all streams: ask about once a second, not per event.
func (s *Server) Usage() (Usage, error) {
	info, err := s.ns.Jsz(nil)
	if err != nil {
		return Usage{}, fmt.Errorf("measure store: %w", err)
	}
	if info.Disabled {
		return Usage{}, errors.New("measure store: the embedded nats server has closed its store")
	}
	free, _, err := diskSpace(s.dir)
	if err != nil {
		return Usage{}, fmt.Errorf("measure file system of %s: %w", s.dir, err)
	}
	return Usage{
		StoreBytes:  int64(info.Store),
		StoreLimit:  info.Config.MaxStore,
		MemoryBytes: int64(info.Memory),
		MemoryLimit: info.Config.MaxMemory,
		FreeDisk:    free,
		Streams:     info.Streams,
		Consumers:   info.Consumers,
		Messages:    info.Messages,
	}, nil
}

// The server's own check gives itself a millisecond, which a busy machine may let pass: only what
// several checks in a row find is true.
const (
	healthChecks   = 5
	healthInterval = 20 * time.Millisecond
)

// Health reports why the server cannot store: it has stopped, a disk error has closed a stream for
// writing, or a stream's folder was not recovered. After a disk error only a new start helps. It
// reads a folder: ask about once a second.
func (s *Server) Health() error {
	err := s.checkHealth()
	for n := 1; err != nil && n < healthChecks; n++ {
		<-time.After(healthInterval)
		err = s.checkHealth()
	}
	return err
}

func (s *Server) checkHealth() error {
	var answer healthAnswer
	// The one account that is used: of every other entry of the folder the server says that it cannot
	// be resolved, and its own write probe, a file _test_*, stays behind where a kill falls into it.
	s.ns.HandleHealthz(&answer, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: server.HealthzPath, RawQuery: "account=" + server.DEFAULT_GLOBAL_ACCOUNT}})
	if answer.status == http.StatusOK {
		return nil
	}
	var health server.HealthStatus
	if err := json.Unmarshal(answer.body, &health); err != nil || health.Error == "" {
		return fmt.Errorf("embedded nats server: health check answered %d", answer.status)
	}
	return fmt.Errorf("embedded nats server: %s", health.Error)
}

// healthAnswer takes what the server's health handler says: it is exported in no other form.
type healthAnswer struct {
	status int
	header http.Header
	body   []byte
}

func (a *healthAnswer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

func (a *healthAnswer) WriteHeader(status int) { a.status = status }

func (a *healthAnswer) Write(b []byte) (int, error) {
	a.body = append(a.body, b...)
	return len(b), nil
}

// FileSystemSize is how large the file system of a folder is, in bytes.
func FileSystemSize(dir string) (int64, error) {
	_, size, err := diskSpace(dir)
	if err != nil {
		return 0, fmt.Errorf("measure file system of %s: %w", dir, err)
	}
	return size, nil
}
