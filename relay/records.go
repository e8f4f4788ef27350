package relay

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/staffetta-relay/staffetta"
)

// The keys of the bucket: "workspace.<ws>", "endpoint.<ws>.<id>", "key.<ws>.<id>" and "secret".
const (
	kindWorkspace = "workspace"
	kindEndpoint  = "endpoint"
	kindKey       = "key"

	// secretRecord holds a known text, sealed: it tells whether the secret key is the right one.
	secretRecord = "secret"
	secretText   = "staffetta"
)

func workspaceRecordName(workspace string) string { return kindWorkspace + "." + workspace }

func childRecordName(kind, workspace, id string) string {
	return kind + "." + workspace + "." + id
}

// parseRecordName takes a record's name apart; kind is empty where it is none of ours.
func parseRecordName(name string) (kind, workspace, id string) {
	kind, rest, _ := strings.Cut(name, ".")
	workspace, id, child := strings.Cut(rest, ".")
	if kind == kindWorkspace && !child && workspace != "" {
		return kind, workspace, ""
	}
	if (kind == kindEndpoint || kind == kindKey) && workspace != "" && id != "" {
		return kind, workspace, id
	}
	return "", "", ""
}

// workspaceValue is what the bucket holds of a workspace.
type workspaceValue struct {
	staffetta.Workspace
	// Deleting says that the workspace is gone and only its records are still to be removed.
	Deleting bool `json:"deleting,omitzero"`
	// Sealed holds the keys that sign operational events, where there are any.
	Sealed []byte `json:"sealed,omitempty"`
}

func workspaceSealName(workspace string) string {
	return workspace + "/" + staffetta.OperationsEndpoint(workspace)
}

func (s *Sealer) encodeWorkspace(v workspaceValue) ([]byte, error) {
	if keys := v.OperationsKeys; keys.Current != "" {
		secrets, err := json.Marshal(endpointSecrets{Key: keys.Current, Previous: keys.Previous, PreviousUntil: keys.PreviousUntil})
		if err != nil {
			return nil, err
		}
		v.Sealed = s.Seal(secrets, workspaceSealName(v.ID))
	}
	return json.Marshal(v)
}

func (s *Sealer) decodeWorkspace(data []byte) (workspaceValue, error) {
	var v workspaceValue
	if err := json.Unmarshal(data, &v); err != nil || len(v.Sealed) == 0 {
		return v, err
	}
	plain, err := s.Open(v.Sealed, workspaceSealName(v.ID))
	if err != nil {
		return v, fmt.Errorf("open its signing keys: %w", err)
	}
	var secrets endpointSecrets
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return v, fmt.Errorf("read its signing keys: %w", err)
	}
	v.OperationsKeys = staffetta.SigningKeys{Current: secrets.Key, Previous: secrets.Previous, PreviousUntil: secrets.PreviousUntil}
	v.Sealed = nil
	return v, nil
}

// endpointValue is what the bucket holds of an endpoint: what is secret about it is sealed.
type endpointValue struct {
	staffetta.Endpoint
	Sealed []byte `json:"sealed"`
}

type endpointSecrets struct {
	Key           string            `json:"key"`
	Previous      string            `json:"previous,omitzero"`
	PreviousUntil time.Time         `json:"previous_until,omitzero"`
	Headers       map[string]string `json:"headers,omitempty"`
}

func endpointSealName(e *staffetta.Endpoint) string { return e.Workspace + "/" + e.ID }

func (s *Sealer) encodeEndpoint(e staffetta.Endpoint) ([]byte, error) {
	secrets, err := json.Marshal(endpointSecrets{
		Key: e.Keys.Current, Previous: e.Keys.Previous, PreviousUntil: e.Keys.PreviousUntil, Headers: e.Headers,
	})
	if err != nil {
		return nil, err
	}
	v := endpointValue{Endpoint: e, Sealed: s.Seal(secrets, endpointSealName(&e))}
	v.Headers = nil
	return json.Marshal(v)
}

func (s *Sealer) decodeEndpoint(data []byte) (staffetta.Endpoint, error) {
	var v endpointValue
	if err := json.Unmarshal(data, &v); err != nil {
		return staffetta.Endpoint{}, err
	}
	plain, err := s.Open(v.Sealed, endpointSealName(&v.Endpoint))
	if err != nil {
		return staffetta.Endpoint{}, fmt.Errorf("open its signing keys: %w", err)
	}
	var secrets endpointSecrets
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return staffetta.Endpoint{}, fmt.Errorf("read its signing keys: %w", err)
	}
	v.Headers = secrets.Headers
	v.Keys = staffetta.SigningKeys{Current: secrets.Key, Previous: secrets.Previous, PreviousUntil: secrets.PreviousUntil}
	return v.Endpoint, nil
}

// keyValue is what the bucket holds of an API key: never the key.
type keyValue struct {
	APIKey
	Hash []byte `json:"sha256"`
}

func encodeKey(k APIKey, hash [sha256.Size]byte) ([]byte, error) {
	return json.Marshal(keyValue{APIKey: k, Hash: hash[:]})
}

func decodeKey(data []byte) (k APIKey, hash [sha256.Size]byte, err error) {
	var v keyValue
	if err := json.Unmarshal(data, &v); err != nil {
		return APIKey{}, hash, err
	}
	if copy(hash[:], v.Hash) != len(hash) {
		return APIKey{}, hash, fmt.Errorf("its SHA-256 has %d bytes", len(v.Hash))
	}
	return v.APIKey, hash, nil
}

// comparableURL is the form in which two URLs are one endpoint: scheme and host in lower case, the
// scheme's own port left out, an empty path as "/". Path and query stay as they are.
func comparableURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw // Validate refuses it; a stored one compares by its bytes
	}
	host := strings.ToLower(u.Hostname())
	if port, err := strconv.Atoi(u.Port()); err == nil && port != map[string]int{"http": 80, "https": 443}[u.Scheme] {
		host = net.JoinHostPort(host, strconv.Itoa(port))
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	if u.RawQuery != "" || u.ForceQuery {
		path += "?" + u.RawQuery
	}
	return u.Scheme + "://" + host + path
}
