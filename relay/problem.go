package relay

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

// problemType is the media type of every answer that is an error.
const problemType = "application/problem+json"

// Problem is an error as the API tells it: RFC 9457 with a stable code. Make one with newProblem.
type Problem struct {
	Status int
	// Code is stable and made for programs, Detail a sentence for a person.
	Code   string
	Detail string
	// Field is the member of the body, or the parameter, at fault; a JSON pointer for a payload.
	Field string
	// Offset is the place in the body where reading it stopped, or -1.
	Offset int
	// Endpoint is the id of the endpoint that stands in the way.
	Endpoint string
	// RetryAfter is the header's value in seconds; 0 leaves it out.
	RetryAfter int
	// Allow is the header's value for a 405.
	Allow string
}

func newProblem(status int, code, detail string) Problem {
	return Problem{Status: status, Code: code, Detail: detail, Offset: -1}
}

func (p Problem) Error() string { return p.Detail }

// authenticate is the WWW-Authenticate header of a 401.
const authenticate = `Bearer realm="staffetta"`

func problemUnauthorized() Problem {
	return newProblem(http.StatusUnauthorized, "unauthorized",
		"send the admin key or an API key of the workspace, as the header Authorization: Bearer <key>")
}

func problemForbidden() Problem {
	return newProblem(http.StatusForbidden, "forbidden", "this key belongs to another workspace")
}

func problemAdminOnly() Problem {
	return newProblem(http.StatusForbidden, "admin_key_required", "a workspace's key cannot do this; it takes the admin key")
}

func problemTooLarge(limit int) Problem {
	return newProblem(http.StatusRequestEntityTooLarge, "body_too_large", "the body is larger than "+strconv.Itoa(limit)+" bytes")
}

func problemMediaType(accepted string) Problem {
	return newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body with the header Content-Type: "+accepted)
}

func problemNoRoute() Problem {
	return newProblem(http.StatusNotFound, "not_found", "there is nothing at this path; /v1/openapi.json lists what there is")
}

func problemMethod(allow string) Problem {
	p := newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "this path takes "+allow)
	p.Allow = allow
	return p
}

// problemUnavailable asks to try again in a second.
func problemUnavailable() Problem {
	p := newProblem(http.StatusServiceUnavailable, "unavailable", "this cannot be stored or read now; try again")
	p.RetryAfter = 1
	return p
}

// problemFor turns any error of this package into what a client is told. What it does not know is
// an internal error, whose text stays in the log.
func problemFor(err error) Problem {
	var (
		problem Problem
		input   *staffetta.InputError
		refused *refusal
	)
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &input):
		return problemForInput(input)
	case errors.As(err, &refused):
		status := http.StatusConflict
		if refused.missing {
			status = http.StatusNotFound
		}
		p := newProblem(status, refused.code, refused.detail)
		p.Endpoint = refused.endpoint
		return p
	case errors.Is(err, errUnknownWorkspace):
		return newProblem(http.StatusNotFound, "workspace_not_found",
			"this workspace does not exist; create it with PUT /v1/workspaces/{workspace} and the admin key")
	case errors.Is(err, ErrUnavailable), errors.Is(err, errPressure), errors.Is(err, errConflict):
		return problemUnavailable()
	default:
		return newProblem(http.StatusInternalServerError, "internal", "an error of the program; its log says more")
	}
}

func problemForInput(input *staffetta.InputError) Problem {
	status := http.StatusUnprocessableEntity
	switch input.Code {
	case "invalid_body":
		status = http.StatusBadRequest
	case "payload_too_large", "too_many_lines":
		status = http.StatusRequestEntityTooLarge
	}
	p := newProblem(status, input.Code, input.Detail)
	p.Field, p.Offset = input.Field, input.Offset
	return p
}

// AppendJSON appends the problem document.
func (p Problem) AppendJSON(dst []byte) []byte {
	text := func(name, value string) {
		if value == "" {
			return
		}
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		// The error only says that bytes outside UTF-8 were replaced.
		dst, _ = jsontext.AppendQuote(dst, value)
	}
	dst = append(dst, `{"type":"about:blank"`...)
	text("title", http.StatusText(p.Status))
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status), 10)
	text("code", p.Code)
	text("detail", p.Detail)
	text("field", p.Field)
	if p.Offset >= 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, int64(p.Offset), 10)
	}
	text("endpoint", p.Endpoint)
	return append(dst, '}')
}

// writeProblem answers with the problem and the headers that belong to it.
func writeProblem(w http.ResponseWriter, p Problem) {
	h := w.Header()
	h.Set("Content-Type", problemType)
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", authenticate)
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if p.Allow != "" {
		h.Set("Allow", p.Allow)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.AppendJSON(nil)) // a client that has gone needs no answer
}
