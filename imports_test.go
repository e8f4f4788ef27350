package staffetta_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/staffetta-relay/staffetta"

// rooms says which rooms of the house a room may import, besides itself. The room is the first
// element of a package's folder, "" the root. A new folder with Go code needs a line here.
var rooms = []struct {
	room   string
	may    []string
	reason string
}{
	{"", nil, "the domain is values and pure functions that every room can lean on, so it leans on none"},
	{"embed", []string{""}, "it starts the server and provisions streams; who publishes and consumes is the wiring's business"},
	{"sender", []string{""}, "ordered delivery is generic over what an attempt is, so it knows neither endpoints' API nor receivers"},
	{"relay", []string{""}, "it tells the sender of changes through calls that the wiring connects"},
	{"receiver", []string{"", "sender"}, "its hand-over rides on the sender's lanes and cursors: ordered delivery exists once"},
	{"respondio", []string{""}, "its types are for programs that handle webhooks, so they come without a server, a queue or a sender"},
	{"bench", []string{"", "respondio", "embed", "sender", "relay", "receiver"}, "it starts the programs it measures, so it wires"},
	{"cmd", []string{"", "respondio", "embed", "sender", "relay", "receiver", "bench"}, "the wiring: one straight function a command"},
}

// testsMayImport are the rooms that a _test.go file may import whatever its own room; it may also
// import any third-party package and the packages of test helpers. Other files are held strictly.
var testsMayImport = []struct{ room, reason string }{
	{"", "a test speaks the domain's words"},
	{"embed", "tests run against the real server, not a mock of it"},
	{"respondio", "an example shows what a program does with the types"},
}

// packagesOfOneRoom may be imported by that room alone, tests excepted: they look into the server.
var packagesOfOneRoom = []struct{ prefix, room, reason string }{
	{"github.com/nats-io/nats-server", "embed", "the others speak nats.go, so the same code runs on an external cluster"},
}

// domainMay are the packages from outside the standard library that the root may import.
var domainMay = []struct{ path, reason string }{
	{"github.com/go-json-experiment/json/jsontext", "the canonical payload needs a JSON tokenizer that keeps key order and refuses duplicates"},
}

// domainMayNot are the packages of the standard library that the root may not import.
var domainMayNot = []struct{ path, reason string }{
	{"os", "no I/O in the domain"},
	{"os/exec", "no I/O in the domain"},
	{"net", "no I/O in the domain; net/url and net/netip are values"},
	{"net/http", "no I/O in the domain"},
	{"log", "no logger in the domain: it returns errors"},
	{"log/slog", "no logger in the domain: it returns errors"},
}

// nameless are names that say nothing about what a package is for.
var nameless = []string{"util", "utils", "common", "types", "models", "pkg", "internal", "helpers", "misc"}

// roomOf is the first element of a slash-separated folder; the root is "".
func roomOf(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return strings.TrimSuffix(first, ".")
}

// holdsTestHelpers says that a package is of use to tests alone, such as embed/embedtest: every
// test may import it, nothing else may, and its files may import what tests may.
func holdsTestHelpers(folder string) bool {
	return strings.HasSuffix(path.Base(folder), "test")
}

// forbidden says why a file in folder (from the root, "." for it) may not import imported; "" if it may.
func forbidden(folder, imported string, isTest bool) string {
	room := roomOf(folder)
	if target, ok := strings.CutPrefix(imported+"/", modulePath+"/"); ok {
		return forbiddenRoom(room, strings.TrimSuffix(target, "/"), isTest)
	}
	if isTest {
		return ""
	}
	for _, p := range packagesOfOneRoom {
		if strings.HasPrefix(imported+"/", p.prefix+"/") && room != p.room {
			return "only " + p.room + " imports it: " + p.reason
		}
	}
	if room != "" {
		return ""
	}
	for _, p := range domainMayNot {
		if imported == p.path {
			return p.reason
		}
	}
	first, _, _ := strings.Cut(imported, "/")
	isStandard := !strings.Contains(first, ".")
	for _, p := range domainMay {
		isStandard = isStandard || imported == p.path
	}
	if !isStandard {
		return "the domain imports the standard library alone"
	}
	return ""
}

// forbiddenRoom is forbidden for a package of this module, given its folder.
func forbiddenRoom(room, target string, isTest bool) string {
	to := roomOf(target)
	if !isTest && holdsTestHelpers(target) {
		return "test helpers are for tests"
	}
	if to == room {
		return ""
	}
	if isTest {
		if holdsTestHelpers(target) {
			return ""
		}
		for _, t := range testsMayImport {
			if t.room == to {
				return ""
			}
		}
	}
	for _, r := range rooms {
		if r.room == room && !slices.Contains(r.may, to) {
			return r.reason
		}
	}
	return ""
}

// TestImports holds the plan of the house: which room may know which.
func TestImports(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(file, entry.Name())
		}
		if strings.HasSuffix(file, ".go") {
			checkFile(t, filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// skipFolder leaves out what the go command leaves out, other modules, and what is not source.
func skipFolder(folder, name string) error {
	if folder == "." {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") ||
		slices.Contains([]string{"testdata", "vendor", "node_modules"}, name) || folder == "bin" || folder == "data" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func checkFile(t *testing.T, file string) {
	folder := path.Dir(file)
	room := roomOf(folder)
	known := false
	for _, r := range rooms {
		known = known || r.room == room
	}
	if !known {
		t.Errorf("%s: %s is no room of the house; give it a line in the table of rooms, with the reason", file, room)
	}
	for element := range strings.SplitSeq(folder, "/") {
		if slices.Contains(nameless, element) {
			t.Errorf("%s: the name %s does not say what the package is for", file, element)
		}
	}
	// What does not parse fails to compile in its own package; its imports count all the same.
	parsed, _ := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if parsed == nil {
		return
	}
	if parsed.Name != nil && slices.Contains(nameless, parsed.Name.Name) {
		t.Errorf("%s: the package name %s does not say what it is for", file, parsed.Name.Name)
	}
	isTest := strings.HasSuffix(file, "_test.go") || holdsTestHelpers(folder)
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if why := forbidden(folder, imported, isTest); why != "" {
			t.Errorf("%s imports %s: %s", file, imported, why)
		}
	}
}

func TestTheImportRulesForbidWhatTheyShould(t *testing.T) {
	for _, c := range []struct {
		folder, imported string
		isTest, allowed  bool
	}{
		{".", "embed", false, true},
		{".", "net/url", false, true},
		{".", "net/http", false, false},
		{".", "github.com/go-json-experiment/json/jsontext", false, true},
		{".", "github.com/go-json-experiment/json", false, false},
		{".", "github.com/rs/zerolog", false, false},
		{".", modulePath + "/sender", false, false},
		{".", modulePath + "/embed", true, true},
		{"embed", "github.com/nats-io/nats-server/v2/server", false, true},
		{"sender", "github.com/nats-io/nats-server/v2/server", false, false},
		{"sender", "github.com/nats-io/nats-server/v2/server", true, true},
		{"sender", "github.com/nats-io/nats.go/jetstream", false, true},
		{"sender", modulePath, false, true},
		{"sender", modulePath + "/embed", false, false},
		{"sender", modulePath + "/embed", true, true},
		{"sender", modulePath + "/relay", true, false},
		{"relay", modulePath + "/relay/console", false, true},
		{"relay/console", modulePath + "/sender", false, false},
		{"relay", modulePath + "/sender/sendertest", true, true},
		{"relay", modulePath + "/sender/sendertest", false, false},
		{"relay", modulePath + "/relay/relaytest", false, false},
		{"receiver", modulePath + "/sender", false, true},
		{"receiver", modulePath + "/relay", false, false},
		{"sender", modulePath + "/receiver", false, false},
		{"respondio", modulePath, false, true},
		{"respondio", modulePath + "/receiver", false, false},
		{"receiver", modulePath + "/respondio", false, false},
		{"relay", modulePath + "/bench", false, false},
		{"bench", modulePath + "/relay", false, true},
		{"cmd/staffetta", modulePath + "/bench", false, true},
		{"cmd/staffetta", "github.com/nats-io/nats-server/v2/server", false, false},
	} {
		why := forbidden(c.folder, c.imported, c.isTest)
		if (why == "") != c.allowed {
			t.Errorf("%s importing %s (test: %v): allowed %v, want %v", c.folder, c.imported, c.isTest, why == "", c.allowed)
		}
	}
}
