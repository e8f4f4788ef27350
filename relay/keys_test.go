package relay

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestTheSecretKeyIsMadeOnceAndKeptToItsOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := LoadSecret("", dir)
	if err != nil || len(first) != SecretSize {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if again, err := LoadSecret("", dir); err != nil || !bytes.Equal(again, first) {
		t.Errorf("another key the second time: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "secret.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	given := bytes.Repeat([]byte{1}, SecretSize)
	if got, err := LoadSecret(base64.StdEncoding.EncodeToString(given), dir); err != nil || !bytes.Equal(got, given) {
		t.Errorf("the given key does not go first: %v", err)
	}
	for _, wrong := range []string{"short", base64.StdEncoding.EncodeToString(given[1:]), strings.Repeat("=", 44)} {
		if _, err := LoadSecret(wrong, dir); err == nil || !strings.Contains(err.Error(), "openssl rand") || strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestTheAdminKeyIsMadeOnceAndMadeSaysSo(t *testing.T) {
	dir := t.TempDir()
	first, made, err := LoadAdminKey("", dir)
	if err != nil || !made || len(first) < MinAdminKey {
		t.Fatalf("%q, %v, %v", first, made, err)
	}
	if again, made, err := LoadAdminKey("", dir); err != nil || made || again != first {
		t.Errorf("the second time: %q, %v, %v", again, made, err)
	}
	if got, made, err := LoadAdminKey("sixteen-letters!", dir); err != nil || made || got != "sixteen-letters!" {
		t.Errorf("a given key: %q, %v, %v", got, made, err)
	}
	for _, wrong := range []string{"fifteen-letters", "sixteen letters!", "sixteen-letters\n", "sixteen-letters-é"} {
		if _, _, err := LoadAdminKey(wrong, dir); err == nil || strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestAKeyFileThatIsOpenOrEmptyIsRefusedWithWhatToDo(t *testing.T) {
	for content, c := range map[string]struct {
		mode os.FileMode
		want string
	}{
		"an-admin-key-to-be-seen\n": {0o644, "chmod 600"},
		"an-admin-key-of-a-group\n": {0o660, ""},
		" \n":                       {0o600, "restore it from a backup"},
		"short\n":                   {0o600, "at least 16"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "admin.key")
		if err := errors.Join(os.WriteFile(path, []byte(content), c.mode), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadAdminKey("", dir)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("mode %o: %v, want %q", c.mode, err, c.want)
		}
	}
}

func TestWhatIsSealedOpensUnderItsNameAlone(t *testing.T) {
	s, err := NewSealer(bytes.Repeat([]byte{1}, SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.Seal([]byte("plain"), "acme/ep_1")
	if plain, err := s.Open(sealed, "acme/ep_1"); err != nil || string(plain) != "plain" {
		t.Errorf("%q, %v", plain, err)
	}
	if again := s.Seal([]byte("plain"), "acme/ep_1"); bytes.Equal(again, sealed) || bytes.Contains(sealed, []byte("plain")) {
		t.Error("it does not look sealed")
	}
	other, err := NewSealer(bytes.Repeat([]byte{2}, SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	for what, open := range map[string]func() ([]byte, error){
		"another name": func() ([]byte, error) { return s.Open(sealed, "acme/ep_2") },
		"another key":  func() ([]byte, error) { return other.Open(sealed, "acme/ep_1") },
		"damaged":      func() ([]byte, error) { return s.Open(damaged, "acme/ep_1") },
		"cut":          func() ([]byte, error) { return s.Open(sealed[:5], "acme/ep_1") },
		"empty":        func() ([]byte, error) { return s.Open(nil, "acme/ep_1") },
		"another form": func() ([]byte, error) { return s.Open(append([]byte{9}, sealed[1:]...), "acme/ep_1") },
	} {
		if plain, err := open(); err == nil {
			t.Errorf("%s opens: %q", what, plain)
		}
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := NewSealer(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

func TestTheBearerOfAHeaderIsFound(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer abc":   "abc",
		"bearer abc":   "abc",
		"BEARER  abc ": "abc",
		"Basic abc":    "",
		"Bearer":       "",
		"Bearer ":      "",
		"abc":          "",
		"":             "",
	} {
		if got := bearerToken([]byte(header)); string(got) != want {
			t.Errorf("%q: %q", header, got)
		}
	}
}

func TestIdsAreTokensThatSortByTheirMaking(t *testing.T) {
	last := ""
	for range 1000 {
		id := newID(endpointPrefix)
		if !staffetta.ValidID(id) || id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
}

func TestAnUnknownErrorIsAnInternalOneThatShowsNothing(t *testing.T) {
	p := problemFor(errors.New("the password is 1234"))
	if text := string(p.AppendJSON(nil)); p.Status != 500 || strings.Contains(text, "1234") {
		t.Errorf("%s", text)
	}
	p = newProblem(422, "invalid_url", "a \"quoted\"\nline \xff <tag>")
	p.Field, p.Offset = "url", 0
	want := `{"type":"about:blank","title":"Unprocessable Entity","status":422,"code":"invalid_url","detail":"a \"quoted\"\nline ` + "\ufffd" + ` <tag>","field":"url","offset":0}`
	if got := string(p.AppendJSON(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
