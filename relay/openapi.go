package relay

import (
	_ "embed"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

// openAPISource is the OpenAPI 3.1 document of the whole API, also of what the intake serves, with
// places for the version and the names of the catalogue.
//
//go:embed openapi.json
var openAPISource string

// openAPIDocument fills the places in.
func openAPIDocument(version string, c staffetta.Catalogue) ([]byte, error) {
	if version == "" {
		version = "dev"
	}
	types := c.Types()
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.Name
	}
	quotedVersion, err := json.Marshal(version)
	if err != nil {
		return nil, err
	}
	quotedNames, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	document := jsontext.Value(strings.NewReplacer(
		`"{{version}}"`, string(quotedVersion),
		`["{{event_types}}"]`, string(quotedNames),
	).Replace(openAPISource))
	if !document.IsValid() {
		return nil, errors.New("the OpenAPI document is not JSON")
	}
	return document, nil
}
