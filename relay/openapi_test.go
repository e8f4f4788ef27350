package relay

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

type object = map[string]any

// openAPIDoc is a parsed document, for checks of itself and of answers against it.
type openAPIDoc struct{ root object }

func parseOpenAPI(t testing.TB) openAPIDoc {
	t.Helper()
	text, err := openAPIDocument("1.2.3", staffetta.DefaultCatalogue())
	if err != nil {
		t.Fatal(err)
	}
	var d openAPIDoc
	if err := json.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// resolve follows $ref.
func (d openAPIDoc) resolve(v any) object {
	o, _ := v.(object)
	ref, ok := o["$ref"].(string)
	if !ok {
		return o
	}
	var at any = d.root
	for token := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		m, _ := at.(object)
		at = m[token]
	}
	return d.resolve(at)
}

// operations yields every operation as "GET /path".
func (d openAPIDoc) operations(yield func(string, object) bool) {
	for path, item := range d.root["paths"].(object) {
		for method, op := range item.(object) {
			if method != "parameters" && !yield(strings.ToUpper(method)+" "+path, op.(object)) {
				return
			}
		}
	}
}

// problems lists how a value does not fit a schema.
func (d openAPIDoc) problems(schema any, value any, at string) []string {
	s := d.resolve(schema)
	if s == nil {
		return []string{at + ": no schema"}
	}
	if options, ok := s["oneOf"].([]any); ok {
		fits := slices.ContainsFunc(options, func(o any) bool { return len(d.problems(o, value, at)) == 0 })
		if !fits {
			return []string{at + ": fits none of oneOf"}
		}
		return nil
	}
	var found []string
	complain := func(format string, args ...any) { found = append(found, at+": "+fmt.Sprintf(format, args...)) }
	if types := listOf(s["type"]); types != nil && !slices.Contains(types, any(typeOf(value))) && (typeOf(value) != "integer" || !slices.Contains(types, any("number"))) {
		complain("is %s, not %v", typeOf(value), types)
	}
	if values, ok := s["enum"].([]any); ok && !slices.Contains(values, value) {
		complain("%v is none of %v", value, values)
	}
	switch v := value.(type) {
	case string:
		if _, err := time.Parse(time.RFC3339, v); s["format"] == "date-time" && (err != nil || !strings.HasSuffix(v, "Z")) {
			complain("%q is no time in UTC", v)
		}
	case []any:
		for i, item := range v {
			found = append(found, d.problems(s["items"], item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case object:
		properties, _ := s["properties"].(object)
		for _, name := range listOf(s["required"]) {
			if _, ok := v[name.(string)]; !ok {
				complain("%s is missing", name)
			}
		}
		for name, member := range v {
			switch {
			case properties[name] != nil:
				found = append(found, d.problems(properties[name], member, at+"."+name)...)
			case s["additionalProperties"] == false:
				complain("%s is not documented", name)
			}
		}
	}
	return found
}

func listOf(v any) []any {
	if l, ok := v.([]any); ok || v == nil {
		return l
	}
	return []any{v}
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func TestTheOpenAPIDocumentAndTheRoutesAreTheSame(t *testing.T) {
	documented := map[string]bool{}
	for name := range parseOpenAPI(t).operations {
		documented[name] = true
	}
	routed := map[string]bool{}
	for _, op := range (&API{}).operations() {
		routed[op.method+" "+op.path] = true
	}
	for path, method := range servedElsewhere {
		routed[method+" "+path] = true
	}
	if !maps.Equal(documented, routed) {
		for name := range routed {
			if !documented[name] {
				t.Errorf("not documented: %s", name)
			}
		}
		for name := range documented {
			if !routed[name] {
				t.Errorf("not routed: %s", name)
			}
		}
	}
}

func TestTheOpenAPIDocumentIsSound(t *testing.T) {
	d := parseOpenAPI(t)
	if d.root["openapi"] != "3.1.0" || d.root["info"].(object)["version"] != "1.2.3" {
		t.Errorf("openapi %v, info %v", d.root["openapi"], d.root["info"])
	}
	used := map[string]bool{}
	var walk func(v any, at string)
	walk = func(v any, at string) {
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				walk(item, fmt.Sprintf("%s/%d", at, i))
			}
		case object:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				if d.resolve(v) == nil {
					t.Errorf("%s: %s leads nowhere", at, ref)
				}
			}
			for name, member := range v {
				walk(member, at+"/"+name)
			}
			if example, ok := v["example"]; ok && v["schema"] != nil {
				for _, p := range d.problems(v["schema"], example, at) {
					t.Error("example: " + p)
				}
			}
			examples, _ := v["examples"].(object)
			for name, example := range examples {
				for _, p := range d.problems(v["schema"], example.(object)["value"], at+"/"+name) {
					t.Error("example: " + p)
				}
			}
		}
	}
	walk(d.root, "#")
	for _, kind := range []string{"schemas", "responses", "parameters"} {
		for name := range d.root["components"].(object)[kind].(object) {
			if ref := "#/components/" + kind + "/" + name; !used[ref] {
				t.Errorf("%s is not used", ref)
			}
		}
	}
}

func TestEveryOperationOfTheOpenAPIDocumentIsWhole(t *testing.T) {
	d := parseOpenAPI(t)
	ids := map[string]bool{}
	tags := d.root["tags"].([]any)
	inPath := regexp.MustCompile(`{(\w+)}`)
	for name, op := range d.operations {
		id, _ := op["operationId"].(string)
		if id == "" || ids[id] || op["summary"] == nil || len(op["responses"].(object)) == 0 {
			t.Errorf("%s: operationId %q, summary %v", name, id, op["summary"])
		}
		ids[id] = true
		for _, tag := range listOf(op["tags"]) {
			if !slices.ContainsFunc(tags, func(known any) bool { return known.(object)["name"] == tag }) {
				t.Errorf("%s: tag %v", name, tag)
			}
		}
		for status, response := range op["responses"].(object) {
			if d.resolve(response)["description"] == nil {
				t.Errorf("%s: %s has no description", name, status)
			}
		}
		_, path, _ := strings.Cut(name, " ")
		item := d.root["paths"].(object)[path].(object)
		var declared, wanted []string
		for _, p := range append(listOf(item["parameters"]), listOf(op["parameters"])...) {
			if p := d.resolve(p); p["in"] == "path" {
				declared = append(declared, p["name"].(string))
			}
		}
		for _, m := range inPath.FindAllStringSubmatch(path, -1) {
			wanted = append(wanted, m[1])
		}
		if !slices.Equal(declared, wanted) {
			t.Errorf("%s: declares %v", name, declared)
		}
	}
}

// The bodies that the API takes and gives have the members that the document says.
func TestTheSchemasAreThoseOfTheCode(t *testing.T) {
	d := parseOpenAPI(t)
	for name, v := range map[string]any{
		"Workspace":          workspaceState{},
		"WorkspaceWithKey":   workspaceAnswer{},
		"WorkspaceChange":    workspaceBody{},
		"NewKey":             keyBody{},
		"Key":                APIKey{},
		"CreatedKey":         keyAnswer{},
		"NewEndpoint":        newEndpointBody{},
		"EndpointPatch":      endpointBody{},
		"EndpointWithKey":    endpointAnswer{},
		"KeyRotation":        rotateBody{},
		"TestResult":         testAnswer{},
		"EventType":          staffetta.EventType{},
		"DeadLetter":         deadLetter{},
		"DeletedDeadLetters": deletedLetters{},
		"NewReplay":          replayBody{},
		"Replay":             replayAnswer{},
		"EndpointList":       list[int]{},
		"Attempt":            attemptAnswer{},
		"EventStanding":      eventAnswer{},
		"Standing":           standingAnswer{},
	} {
		schema := d.root["components"].(object)["schemas"].(object)[name].(object)
		documented := slices.Sorted(maps.Keys(schema["properties"].(object)))
		if members := slices.Sorted(slices.Values(membersOf(reflect.TypeOf(v)))); !slices.Equal(documented, members) {
			t.Errorf("%s: documented %v, in the code %v", name, documented, members)
		}
	}
}

func membersOf(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			names = append(names, membersOf(f.Type)...)
		case name != "-":
			names = append(names, name)
		}
	}
	return names
}

func TestTheEventTypesOfTheDocumentAreTheCatalogues(t *testing.T) {
	c, err := staffetta.NewCatalogue([]staffetta.EventType{{Name: "order.paid"}, {Name: "order.sent"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := openAPIDocument(`"odd" version`, c)
	if err != nil || !strings.Contains(string(text), `"enum": ["order.paid","order.sent"]`) || strings.Contains(string(text), "{{") {
		t.Errorf("%v", err)
	}
	var parsed any
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Error(err)
	}
}

// checkAnswer holds an answer against the document.
func (d openAPIDoc) checkAnswer(t testing.TB, pattern string, status int, header http.Header, body []byte) {
	t.Helper()
	for name, op := range d.operations {
		if name != pattern {
			continue
		}
		response := d.resolve(op["responses"].(object)[fmt.Sprint(status)])
		if response == nil {
			t.Errorf("%s: the status %d is not documented", name, status)
			return
		}
		for name := range mapOf(response["headers"]) {
			if header.Get(name) == "" {
				t.Errorf("%s: %d without %s", pattern, status, name)
			}
		}
		content := mapOf(response["content"])
		if len(content) == 0 {
			if len(body) > 0 {
				t.Errorf("%s: %d with a body: %s", name, status, body)
			}
			return
		}
		var value any
		if err := json.Unmarshal(body, &value); err != nil {
			t.Errorf("%s: %d: %v", name, status, err)
		}
		media := mapOf(content[header.Get("Content-Type")])
		for _, p := range d.problems(media["schema"], value, name) {
			t.Error(p)
		}
	}
}

func mapOf(v any) object { o, _ := v.(object); return o }
