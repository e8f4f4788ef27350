package bench

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestPayloadsAreCanonicalAndOfTheSizeAskedFor(t *testing.T) {
	for _, size := range []int{MinPayload, 257, 300, 512, 1000, 1024, 1703, 4096, 1 << 20} {
		all, err := NewTemplates(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(all.Types()) != len(staffetta.DefaultCatalogue().Types()) {
			t.Errorf("types: %v", all.Types())
		}
		for _, template := range all.Of(all.Types()...) {
			mark := Mark{Track: 123_456, Sequence: math.MaxUint32, Planned: 1_790_000_000_123_456_789}
			event := make([]byte, size)
			template.Render(event, mark)
			p, err := staffetta.Canonicalize(event)
			if err != nil {
				t.Fatalf("%s of %d bytes: %v\n%s", template.Type, size, err, event)
			}
			if !bytes.Equal(p.Body, event) || len(template.text) != size {
				t.Errorf("%s of %d bytes is not canonical, or has %d:\n%.2000s", template.Type, size, len(template.text), event)
			}
			if string(p.EventType) != template.Type || !bytes.Contains(event, []byte(`{"contact":{"id":100123456`)) {
				t.Errorf("%s of %d bytes: %.300s", template.Type, size, event)
			}
			if got, ok := markOf(event); !ok || got != mark {
				t.Errorf("%s of %d bytes carries %+v", template.Type, size, got)
			}
		}
	}
	if _, err := NewTemplates(MinPayload - 1); err == nil {
		t.Error("too small a size is taken")
	}
}

func TestAPatchedEventIsTheSameAsARenderedOne(t *testing.T) {
	all, err := NewTemplates(1024)
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range all.Of("message.received") {
		patched, rendered := make([]byte, 1024), make([]byte, 1024)
		template.Render(patched, Mark{Track: math.MaxUint32, Sequence: math.MaxUint32, Planned: math.MaxInt64})
		template.patch(patched, Mark{Track: 7, Sequence: 8, Planned: 9})
		template.Render(rendered, Mark{Track: 7, Sequence: 8, Planned: 9})
		if !bytes.Equal(patched, rendered) {
			t.Errorf("%s\n%s", patched, rendered)
		}
	}
}

func TestAMarkIsReadBack(t *testing.T) {
	var text [markLen]byte
	for _, m := range []Mark{{}, {Track: 1, Sequence: 2, Planned: 3}, {Track: math.MaxUint32, Sequence: math.MaxUint32, Planned: math.MaxInt64}} {
		m.put(text[:])
		if got, ok := parseMark(text[:]); !ok || got != m {
			t.Errorf("%+v as %s is %+v", m, text, got)
		}
	}
	for _, wrong := range []string{"", strings.Repeat("0", 36), "0000000g-0000-0000-0000-000000000000", "313BA4A0-7dd6-4818-84f0-43a5e987786e", "00000000-0000-0000-0000-0000000000000"} {
		if m, ok := parseMark([]byte(wrong)); ok {
			t.Errorf("%q is %+v", wrong, m)
		}
	}
	if _, ok := markOf([]byte(`"}`)); ok {
		t.Error("a payload without room for a mark has one")
	}
}

func TestEveryEventOfALayoutHasOneEndpoint(t *testing.T) {
	templates, err := NewTemplates(512)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ endpoints, perWorkspace, producers, tracks int }{
		{1, 10, 32, 32}, {7, 10, 4, 28}, {25, 10, 2, 25}, {100, 10, 30, 300}, {1000, 1, 20, 1000},
	} {
		l, err := NewLayout("w", c.endpoints, c.perWorkspace, false, templates.Types())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range l.Workspaces {
			var types []string
			for _, e := range l.Endpoints[w.First : w.First+w.Count] {
				types = append(types, e.Types...)
			}
			slices.Sort(types)
			if !slices.Equal(types, templates.Types()) {
				t.Errorf("%+v: the endpoints of %s ask for %v", c, w.ID, types)
			}
		}
		tracks, crews := l.Tracks(c.producers, templates)
		if len(tracks) != c.tracks || len(crews) != c.producers {
			t.Errorf("%+v: %d tracks of %d producers", c, len(tracks), len(crews))
		}
		for i, track := range tracks {
			if track.Number != uint32(i) || track.Fan != 1 || l.Endpoints[track.First].Workspace != track.Workspace || len(track.templates) == 0 {
				t.Errorf("%+v: track %d: %+v", c, i, track)
			}
		}
	}
}

func TestALayoutWithFanSendsEveryEventToAll(t *testing.T) {
	templates, err := NewTemplates(512)
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout("w", 100, 50, true, []string{"message.sent"})
	if err != nil {
		t.Fatal(err)
	}
	tracks, _ := l.Tracks(4, templates)
	if len(tracks) != 4 || tracks[3].First != 50 || tracks[3].Fan != 50 || tracks[3].Workspace != 1 {
		t.Errorf("%d tracks, the last %+v", len(tracks), tracks[len(tracks)-1])
	}
	if _, err := NewLayout("w", 100, 50, false, templates.Types()); err == nil {
		t.Error("more endpoints in a workspace than there are types to deal out")
	}
}

func TestProducersServeTheWorkspacesAlike(t *testing.T) {
	for _, c := range []struct{ workspaces, want int }{{1, 32}, {2, 32}, {3, 30}, {10, 30}, {20, 20}, {32, 32}, {37, 32}, {100, 25}, {1000, 25}} {
		if got := producersFor(c.workspaces, 32); got != c.want {
			t.Errorf("%d workspaces: %d producers, want %d", c.workspaces, got, c.want)
		}
	}
}
