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
	// RotateOperationsKey makes a new key for the operational events.
	RotateOperationsKey optional[bool] `json:"rotate_operations_key"`
}

func (b *workspaceBody) apply(ws *staffetta.Workspace) error {
	b.Plan.into(&ws.Plan)
	b.NotifyEmails.into(&ws.NotifyEmails)
	b.Language.into(&ws.Language)
	b.Quota.into(&ws.Quota)
	b.QuotaScope.into(&ws.QuotaScope)
	b.OperationsURL.into(&ws.OperationsURL)
	ws.SetDefaults()
	if err := ws.Validate(); err != nil {
		return err
	}
	return b.applyKey(ws)
}

// applyKey makes the key of the operational events where there is none, or another is asked for.
func (b *workspaceBody) applyKey(ws *staffetta.Workspace) error {
	switch {
	case ws.OperationsURL == "" && b.RotateOperationsKey.value:
		return bodyError("invalid_rotation", "rotate_operations_key", "there is no operations_url whose key could be rotated")
	case ws.OperationsURL == "":
		ws.OperationsKeys = staffetta.SigningKeys{}
	case ws.OperationsKeys.Current == "":
		ws.OperationsKeys = staffetta.SigningKeys{Current: staffetta.NewSigningKey()}
	case b.RotateOperationsKey.value:
		ws.OperationsKeys = rotated(ws.OperationsKeys, staffetta.NewSigningKey(), defaultOverlap)
	}
	return nil
}

// workspaceState is a workspace with the quota that holds for it and what is used up.
type workspaceState struct {
	staffetta.Workspace
	FailuresInWindow *int `json:"failures_in_window,omitzero"`
}

func (a *API) workspaceState(ws staffetta.Workspace) workspaceState {
	shown := workspaceState{Workspace: ws}
	if a.cfg.Quota != nil {
		quota := a.cfg.Quota.Of(ws).Failures
		_, all := a.cfg.Quota.Failures(ws.ID, "")
		shown.Quota, shown.FailuresInWindow = &quota, &all
	}
	return shown
}

// workspaceAnswer is a workspace as PUT answers it.
type workspaceAnswer struct {
	workspaceState
	// OperationsSigningKey is shown where this request has made it.
	OperationsSigningKey string `json:"operations_signing_key,omitzero"`
}

func (a *API) putWorkspace(r *http.Request) (answer, error) {
	var body workspaceBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	var before string
	ws, created, err := a.cfg.Registry.PutWorkspace(r.Context(), r.PathValue("workspace"), func(ws *staffetta.Workspace) error {
		before = ws.OperationsKeys.Current
		return body.apply(ws)
	})
	if err != nil {
		return answer{}, err
	}
	shown := workspaceAnswer{workspaceState: a.workspaceState(ws)}
	if key := ws.OperationsKeys.Current; key != before {
		shown.OperationsSigningKey = key
	}
	if created {
		return answer{status: http.StatusCreated, body: shown, location: "/v1/workspaces/" + ws.ID}, nil
	}
	return answer{status: http.StatusOK, body: shown}, nil
}

func (a *API) getWorkspace(r *http.Request) (answer, error) {
	ws, err := a.cfg.Registry.Workspace(r.PathValue("workspace"))
	return answer{status: http.StatusOK, body: a.workspaceState(ws)}, err
}

func (a *API) deleteWorkspace(r *http.Request) (answer, error) {
	workspace := r.PathValue("workspace")
	if err := a.cfg.Registry.DeleteWorkspace(r.Context(), workspace); err != nil {
		return answer{}, err
	}
	a.forgetEvents(r.Context(), workspace)
	return answer{status: http.StatusNoContent}, nil
}

func (a *API) listWorkspaces(r *http.Request) (answer, error) {
	after, limit, err := pageOf(r)
	if err != nil {
		return answer{}, err
	}
	workspaces, more := a.cfg.Registry.Workspaces(after, limit)
	page := list[workspaceState]{Items: make([]workspaceState, len(workspaces))}
	for i, ws := range workspaces {
		page.Items[i] = a.workspaceState(ws)
	}
	if more {
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
