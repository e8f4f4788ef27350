package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The colours of a terminal, by what they say.
type colour string

const (
	plain  colour = ""
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// paint colours text for people; it leaves it alone for programs.
type paint bool

// paintFor colours what goes to a terminal, unless NO_COLOR says otherwise.
func paintFor(w io.Writer) paint {
	return paint(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

func (p paint) text(c colour, text string) string {
	if !bool(p) || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// cell is one place of a table.
type cell struct {
	text   string
	colour colour
	right  bool // numbers stand at the right
}

func left(s string) cell { return cell{text: s} }

func number[T int | uint64](n T) cell { return cell{text: fmt.Sprint(n), right: true} }

// table aligns columns. It can be printed again and again: rows that are added later stand under the
// columns of those before.
type table struct {
	head   []string
	rows   [][]cell
	widths []int // of the columns so far; nil while nothing was printed
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// headRow is the first line; it is aligned as the columns are.
func (t *table) headRow() []cell {
	head := make([]cell, len(t.head))
	for i, name := range t.head {
		head[i] = cell{text: name, colour: dim}
		if len(t.rows) > 0 {
			head[i].right = t.rows[0][i].right
		}
	}
	return head
}

// print writes the rows that were not written before; what is in their cells is cleaned.
func (t *table) print(w io.Writer) error {
	p := paintFor(w)
	rows := t.rows
	if t.widths == nil {
		t.widths = make([]int, len(t.head))
		rows = append([][]cell{t.headRow()}, rows...)
	}
	t.rows = nil
	for _, row := range rows {
		for i := range row {
			row[i].text = clean(row[i].text)
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			space := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c.text))
			if c.right {
				line.WriteString(space + p.text(c.colour, c.text) + "  ")
			} else {
				line.WriteString(p.text(c.colour, c.text) + space + "  ")
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// clean makes a text that came from elsewhere fit for one line of a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '�'
		}
		return r
	}, s)
}
