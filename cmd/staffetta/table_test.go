package main

import (
	"strings"
	"testing"
)

func TestATableAlignsItsColumnsAndIsSafeToPrint(t *testing.T) {
	tab := table{head: []string{"NAME", "COUNT", "NOTE"}}
	tab.add(left("città"), number(7), left("a\x1b[31mred\nline"))
	tab.add(cell{text: "b", colour: red}, number(1234), left(""))
	var out strings.Builder
	if err := tab.print(&out); err != nil {
		t.Fatal(err)
	}
	want := "NAME   COUNT  NOTE\n" +
		"città      7  a�[31mred line\n" +
		"b       1234\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestColourIsForPeople(t *testing.T) {
	if got := paint(false).text(red, "x"); got != "x" {
		t.Errorf("for a program: %q", got)
	}
	if got := paint(true).text(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("for a person: %q", got)
	}
	if got := paint(true).text(plain, "x"); got != "x" {
		t.Errorf("plain: %q", got)
	}
	if paintFor(&strings.Builder{}) {
		t.Error("what is no terminal gets colour")
	}
}
