package relay

import (
	"net/http"
	"slices"
	"strings"

	"github.com/staffetta-relay/staffetta"
)

// workspaceBody is what PUT takes: a member left out keeps its value, null puts its default back.
type workspaceBody struct {
	Plan          optional[staffetta.Plan]       `json:"plan"`
	NotifyEmails  optional[[]string]             `json:"notify_emails"`
	Language      optional[string]               `json:"language"`
	Quota         optional[*int]                 `json:"quota"`
	QuotaScope    optional[staffetta.QuotaScope] `json:"quota_scope"`
	OperationsURL optional[string]               `json:"operations_url"`
}

func (b *workspaceBody) apply(ws *staffetta.Workspace) error {
	b.Plan.into(&ws.Plan)
	b.NotifyEmails.into(&ws.NotifyEmails)
	b.Language.into(&ws.Language)
	b.Quota.into(&ws.Quota)
	b.QuotaScope.into(&ws.QuotaScope)
	b.OperationsURL.into(&ws.OperationsURL)
	ws.SetDefaults()
	return ws.Validate()
}

func (a *API) putWorkspace(r *http.Request) (answer, error) {
	var body workspaceBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	ws, created, err := a.cfg.Registry.PutWorkspace(r.Context(), r.PathValue("workspace"), body.apply)
	if err != nil {
		return answer{}, err
	}
	if created {
		return answer{status: http.StatusCreated, body: ws, location: "/v1/workspaces/" + ws.ID}, nil
	}
	return answer{status: http.StatusOK, body: ws}, nil
}

func (a *API) getWorkspace(r *http.Request) (answer, error) {
	ws, err := a.cfg.Registry.Workspace(r.PathValue("workspace"))
	return answer{status: http.StatusOK, body: ws}, err
}

func (a *API) deleteWorkspace(r *http.Request) (answer, error) {
	return answer{status: http.StatusNoContent}, a.cfg.Registry.DeleteWorkspace(r.Context(), r.PathValue("workspace"))
}

func (a *API) listWorkspaces(r *http.Request) (answer, error) {
	after, limit, err := pageOf(r)
	if err != nil {
		return answer{}, err
	}
	page := list[staffetta.Workspace]{}
	var more bool
	if page.Items, more = a.cfg.Registry.Workspaces(after, limit); more {
		page.NextCursor = cursorAfter(page.Items[len(page.Items)-1].ID)
	}
	return answer{status: http.StatusOK, body: page}, nil
}

// keyBody is what making an API key takes.
type keyBody struct {
	Name optional[string] `json:"name"`
}

// keyAnswer is the one answer that shows an API key.
type keyAnswer struct {
	APIKey
	Key string `json:"key"`
}

const maxKeyName = 128

func (a *API) createKey(r *http.Request) (answer, error) {
	var body keyBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	name := body.Name.value
	if len(name) > maxKeyName || strings.IndexFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0 {
		return answer{}, bodyError("invalid_name", "name", "must have at most 128 bytes and no control characters")
	}
	k, key, err := a.cfg.Registry.CreateKey(r.Context(), r.PathValue("workspace"), name)
	return answer{status: http.StatusCreated, body: keyAnswer{APIKey: k, Key: key}}, err
}

func (a *API) listKeys(r *http.Request) (answer, error) {
	after, limit, err := pageOf(r)
	if err != nil {
		return answer{}, err
	}
	keys, err := a.cfg.Registry.Keys(r.PathValue("workspace"))
	if err != nil {
		return answer{}, err
	}
	from, found := slices.BinarySearchFunc(keys, after, func(k APIKey, id string) int { return strings.Compare(k.ID, id) })
	if found {
		from++
	}
	page := list[APIKey]{Items: keys[from:min(from+limit, len(keys))]}
	if from+limit < len(keys) {
		page.NextCursor = cursorAfter(page.Items[limit-1].ID)
	}
	return answer{status: http.StatusOK, body: page}, nil
}

func (a *API) deleteKey(r *http.Request) (answer, error) {
	return answer{status: http.StatusNoContent}, a.cfg.Registry.DeleteKey(r.Context(), r.PathValue("workspace"), r.PathValue("key"))
}
