package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Format is the number of the form that results are written in as JSON. It changes when a field that
// reports need changes its meaning, so that a report is never made of what it misunderstands.
const Format = 1

// ReadResult reads what WriteJSON has written. The error says what to do about a file of another format.
func ReadResult(path string) (*Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	defer func() { _ = f.Close() }()
	r, err := decodeResult(f)
	if err != nil {
		return nil, fmt.Errorf("read result %s: %w", path, err)
	}
	return r, nil
}

func decodeResult(from io.Reader) (*Result, error) {
	text, err := io.ReadAll(from)
	if err != nil {
		return nil, err
	}
	var head struct {
		Scenario, Version string
		Format            *int
	}
	if err := json.Unmarshal(text, &head); err != nil || head.Scenario == "" {
		return nil, fmt.Errorf("it is no result of staffetta bench --json (%w)", first(err, errNoScenario))
	}
	if head.Format == nil || *head.Format != Format {
		format := "none"
		if head.Format != nil {
			format = fmt.Sprint(*head.Format)
		}
		return nil, fmt.Errorf("its format is %s and this staffetta reads %d: report it with the staffetta that made it (%s), or run the bench again", format, Format, head.Version)
	}
	r := new(Result)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, err
	}
	if r.Figures == nil {
		r.Figures = map[string]any{}
	}
	return r, nil
}

// errNoScenario is what is wrong with JSON of something else.
var errNoScenario = fmt.Errorf("there is no scenario in it")

// options gives what the run was asked for, by name.
func (r *Result) options() map[string]any {
	options, _ := r.Figures["options"].(map[string]any)
	return options
}
