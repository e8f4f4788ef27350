package relay

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrNotFound says that a workspace, an endpoint or a key does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable says that the store did not take or give something; trying again is right.
	ErrUnavailable = errors.New("the store is not available")

	// errConflict says that another process wrote a record since memory has learnt of it.
	errConflict = errors.New("the record has changed")
)

// refusal says why the registry does not do what it was asked to.
type refusal struct {
	// code is stable and made for programs, detail a sentence for a person.
	code, detail string
	// endpoint is the id of the endpoint that stands in the way, where one does.
	endpoint string
	missing  bool
}

func (e *refusal) Error() string { return e.detail }

func (e *refusal) Is(target error) bool { return target == ErrNotFound && e.missing }

func noWorkspace(id string) error {
	return &refusal{code: "workspace_not_found", missing: true, detail: "the workspace " + quote(id) + " does not exist; create it with PUT /v1/workspaces/{workspace} and the admin key"}
}

func noEndpoint(workspace, id string) error {
	return &refusal{code: "endpoint_not_found", missing: true, detail: "the workspace " + quote(workspace) + " has no endpoint " + quote(id)}
}

func noKey(workspace, id string) error {
	return &refusal{code: "key_not_found", missing: true, detail: "the workspace " + quote(workspace) + " has no API key " + quote(id)}
}

func urlTaken(endpoint string) error {
	return &refusal{code: "url_taken", endpoint: endpoint, detail: "the endpoint " + endpoint + " of this workspace has this URL already; change its event types instead"}
}

func testRequired(endpoint string) error {
	return &refusal{code: "test_required", endpoint: endpoint, detail: "this endpoint must accept a test send before it is enabled: make one with POST …/endpoints/" +
		endpoint + "/test or staffetta endpoints test " + endpoint + ", then enable it"}
}

func limitReached(code, whose string, limit int, what string) error {
	return &refusal{code: code, detail: fmt.Sprintf("%s has %d %s, which is the limit; delete some first", whose, limit, what)}
}

func changedMeanwhile() error {
	return &refusal{code: "changed_meanwhile", detail: "others keep changing this at the same time; try again"}
}

// storeError tells a lost compare-and-set from a store that does not answer.
func storeError(doing string, err error) error {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("%s: %w", doing, errConflict)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

func isConflict(err error) bool { return errors.Is(err, errConflict) }

// quote shows what a caller gave, shortened and without control characters.
func quote(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strconv.QuoteToASCII(s)
}
