package relay

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

const (
	// maxBody bounds the body of a management request.
	maxBody = 256 << 10

	defaultPage = 100
	maxPage     = 1000
)

// optional is a member that may be left out, or be null, which puts its default back.
type optional[T any] struct {
	given bool
	value T // the zero value for null
}

// UnmarshalJSONFrom is called where the member is given.
func (o *optional[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	o.given = true
	var value T // null leaves it as it is
	if err := json.UnmarshalDecode(dec, &value); err != nil {
		return err
	}
	o.value = value
	return nil
}

// into sets what the member stands for, if it is given.
func (o optional[T]) into(target *T) {
	if o.given {
		*target = o.value
	}
}

// readObject reads the JSON object of a request into a struct. A request without a body is an object
// without members.
func readObject(r *http.Request, into any) error { return readObjectWithin(r, maxBody, into) }

// readObjectWithin is readObject with a bound of its own, in bytes.
func readObjectWithin(r *http.Request, limit int, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil {
		return newProblem(http.StatusBadRequest, "incomplete_body", "the body could not be read to its end")
	}
	if len(body) > limit {
		return problemTooLarge(limit)
	}
	if len(body) == 0 {
		return nil
	}
	if !isJSON(r) {
		return problemMediaType("application/json")
	}
	return decodeBody(body, into)
}

// isJSON lets a request pass that does not say what it sends.
func isJSON(r *http.Request) bool {
	given := r.Header.Get("Content-Type")
	if given == "" {
		return true
	}
	media, parameters, err := mime.ParseMediaType(given)
	if charset := parameters["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	return media == "application/json" || r.Method == http.MethodPatch && media == "application/merge-patch+json"
}

// decodeBody refuses what is no JSON object, members that the struct does not have, and members
// given twice. It names the member at fault and shows nothing of the body.
func decodeBody(body []byte, into any) error {
	err := json.Unmarshal(body, into, json.RejectUnknownMembers(true))
	var (
		syntax   *jsontext.SyntacticError
		semantic *json.SemanticError
	)
	switch {
	case err == nil:
		if text := bytes.TrimLeft(body, " \t\r\n"); text[0] != '{' { // null
			return bodyError("invalid_type", "", "the body must be a JSON object")
		}
		return nil
	case errors.As(err, &syntax) && errors.Is(err, jsontext.ErrDuplicateName):
		return bodyError("duplicate_key", memberOf(syntax.JSONPointer), "is given twice")
	case errors.As(err, &syntax):
		e := bodyError("invalid_body", "", "the body is not JSON: reading it stopped at byte "+strconv.FormatInt(syntax.ByteOffset, 10))
		e.Offset = int(syntax.ByteOffset)
		return e
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return unknownMember(semantic.JSONPointer)
	case errors.As(err, &semantic) && semantic.JSONPointer == "":
		return bodyError("invalid_type", "", "the body must be a JSON object")
	case errors.As(err, &semantic):
		return bodyError("invalid_type", memberOf(semantic.JSONPointer), wantedType(semantic.GoType))
	default:
		return bodyError("invalid_body", "", "the body cannot be read")
	}
}

func bodyError(code, field, detail string) *staffetta.InputError {
	return &staffetta.InputError{Code: code, Field: field, Offset: -1, Detail: detail}
}

// memberOf names the member of the body that a pointer leads into.
func memberOf(p jsontext.Pointer) string {
	for token := range p.Tokens() {
		return shortened(token)
	}
	return ""
}

// shownOnly are the members of answers that no request sets, with what to do instead.
var shownOnly = map[string]string{
	"id":                     "is part of the path or made by the relay",
	"workspace":              "is part of the path",
	"status":                 "is changed with POST …/enable and POST …/disable",
	"disabled_reason":        "is changed with POST …/enable and POST …/disable",
	"disabled_at":            "is changed with POST …/enable and POST …/disable",
	"tested_at":              "is set by a test send that the endpoint accepts while it is disabled",
	"signing_key":            "is changed with POST …/rotate-key",
	"operations_signing_key": "is changed with rotate_operations_key",
	"created_at":             "is set by the relay",
	"updated_at":             "is set by the relay",
}

func unknownMember(p jsontext.Pointer) error {
	name := memberOf(p)
	if why, known := shownOnly[name]; known {
		return bodyError("read_only_member", name, why)
	}
	return bodyError("unknown_member", name, "no such member; /v1/openapi.json lists those there are")
}

func wantedType(t reflect.Type) string {
	if t == nil {
		return "has a value of the wrong type"
	}
	switch t.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Int:
		return "must be a whole number"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Slice:
		return "must be an array"
	case reflect.Map, reflect.Struct:
		return "must be an object"
	case reflect.Pointer:
		return wantedType(t.Elem())
	default:
		return "has a value of the wrong type"
	}
}

// list is one page of a collection.
type list[T any] struct {
	Items []T `json:"items"`
	// NextCursor leads to the next page; there is none where it is empty.
	NextCursor string `json:"next_cursor,omitzero"`
}

// pageParameters are those of every list.
var pageParameters = []string{"limit", "cursor"}

// queryOf reads the parameters of a request, which must be of those named: a filter that is misspelt
// must not select everything.
func queryOf(r *http.Request, names ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, bodyError("invalid_query", "", "the parameters behind the ? of the path cannot be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(names, name) {
			return nil, bodyError("unknown_parameter", shortened(name), "no such parameter; this takes "+strings.Join(names, ", "))
		}
	}
	return query, nil
}

// shortened is a name that a caller made up, for an answer.
func shortened(name string) string {
	if len(name) > 64 {
		name = strings.ToValidUTF8(name[:64], "") + "…"
	}
	return name
}

// pageOf reads limit and cursor; after is the id that the page starts behind.
func pageOf(r *http.Request) (after string, limit int, err error) {
	query, err := queryOf(r, pageParameters...)
	if err != nil {
		return "", 0, err
	}
	limit = defaultPage
	if text := query.Get("limit"); text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxPage {
			return "", 0, bodyError("invalid_limit", "limit", "must be between 1 and "+strconv.Itoa(maxPage))
		}
	}
	if text := query.Get("cursor"); text != "" {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || !staffetta.ValidID(string(raw)) {
			return "", 0, bodyError("invalid_cursor", "cursor", "is not a next_cursor of this list; leave it out to start again")
		}
		after = string(raw)
	}
	return after, limit, nil
}

// cursorAfter is the cursor of the page behind an id. Ids do not move, so a cursor stays good
// while things are created and deleted.
func cursorAfter(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

// mergeHeaders is a JSON merge patch of headers, whose names know no case: null takes one out.
func mergeHeaders(old map[string]string, patch map[string]*string) map[string]string {
	named := make(map[string]bool, len(patch))
	for name := range patch {
		named[strings.ToLower(name)] = true
	}
	merged := make(map[string]string, len(old)+len(patch))
	for name, value := range old {
		if !named[strings.ToLower(name)] {
			merged[name] = value
		}
	}
	for name, value := range patch {
		if value != nil {
			merged[name] = *value
		}
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}
