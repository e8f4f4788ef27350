package staffetta

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write testdata/canonical.golden.json anew from node's answers")

const goldenFile = "testdata/canonical.golden.json"

// golden is one input and what a JavaScript engine makes of it: nil where JSON.parse throws.
type golden struct {
	Input string  `json:"input"`
	Node  *string `json:"node"`
}

// goldenInputs are the inputs of the tables, as far as they are UTF-8 and not long, and a few
// generated ones.
func goldenInputs() [][]byte {
	var inputs [][]byte
	for _, c := range accepted {
		inputs = append(inputs, []byte(c.in))
	}
	for _, c := range refused {
		if utf8.ValidString(c.in) && len(c.in) < 1000 {
			inputs = append(inputs, []byte(c.in))
		}
	}
	g := generator{rand.New(rand.NewPCG(1, 1))}
	for range 200 {
		if in := g.text(g.object(2)); utf8.Valid(in) {
			inputs = append(inputs, in)
		}
	}
	return inputs
}

// askNode returns what JSON.stringify(JSON.parse(input)) gives for each, nil where it throws.
func askNode(t *testing.T, node string, inputs [][]byte) []*string {
	t.Helper()
	var lines bytes.Buffer
	for _, in := range inputs {
		lines.WriteString(base64.StdEncoding.EncodeToString(in) + "\n")
	}
	command := exec.Command(node, "testdata/canonical.mjs")
	command.Stdin, command.Stderr = &lines, os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("run node: %v", err)
	}
	answers := make([]*string, 0, len(inputs))
	for line := range bytes.Lines(out) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if string(line) == "!" {
			answers = append(answers, nil)
			continue
		}
		text, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil {
			t.Fatalf("read node's answer: %v", err)
		}
		answer := string(text)
		answers = append(answers, &answer)
	}
	if len(answers) != len(inputs) {
		t.Fatalf("node answered %d of %d inputs", len(answers), len(inputs))
	}
	return answers
}

// checkNode holds Canonicalize against a JavaScript engine's answer to the same input.
func checkNode(t *testing.T, in []byte, node *string) (accepted bool) {
	t.Helper()
	p, err := Canonicalize(in)
	var bad *InputError
	switch {
	case err == nil && node == nil:
		t.Errorf("%s: node refuses it", shown(in))
	case err == nil && string(p.Body) != *node:
		t.Errorf("%s:\n got %s\nnode %s", shown(in), p.Body, *node)
	case err != nil && !errors.As(err, &bad):
		t.Errorf("%s: %v is no InputError", shown(in), err)
	case err != nil && node != nil && (bad.Code == "malformed_json" || bad.Code == "byte_order_mark" || bad.Code == "invalid_utf8"):
		t.Errorf("%s: node accepts it, we say %v", shown(in), err)
	}
	return err == nil
}

func TestCanonicalizeAgreesWithTheGoldenAnswersOfNode(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	text, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var cases []golden
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != len(goldenInputs()) {
		t.Errorf("%s has %d cases, the tests have %d: run go test with -update", goldenFile, len(cases), len(goldenInputs()))
	}
	for _, c := range cases {
		checkNode(t, []byte(c.Input), c.Node)
	}
}

func writeGolden(t *testing.T) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	inputs := goldenInputs()
	cases := make([]golden, len(inputs))
	for i, answer := range askNode(t, node, inputs) {
		cases[i] = golden{string(inputs[i]), answer}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(cases); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCanonicalizeAgreesWithNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed; its golden answers are checked instead")
	}
	inputs := append(goldenInputs(), slices.Collect(maps.Values(samplePayloads(t)))...)
	g := generator{rand.New(rand.NewPCG(2, 2))}
	for i := range 6000 {
		in := g.text(g.object(3))
		if i%3 == 0 {
			in = g.spoil(in)
		}
		inputs = append(inputs, in)
	}
	for range 3000 {
		inputs = append(inputs, []byte(`{"n":`+g.number()+`}`))
	}
	taken := 0
	for i, answer := range askNode(t, node, inputs) {
		if checkNode(t, inputs[i], answer) {
			taken++
		}
	}
	if taken < len(inputs)/2 {
		t.Errorf("only %d of %d inputs are accepted: the generator says too little", taken, len(inputs))
	}
}
