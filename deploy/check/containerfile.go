package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// checkContainerfile parses the file; a warning of BuildKit's rules is an error.
func checkContainerfile(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var warnings []string
	for _, w := range parsed.Warnings {
		warnings = append(warnings, w.Short)
	}
	rules := linter.New(&linter.Config{Warn: func(name, _, _, text string, at []parser.Range) {
		warnings = append(warnings, fmt.Sprintf("line %d: %s: %s", at[0].Start.Line, name, text))
	}})
	stages, _, err := instructions.Parse(parsed.AST, rules)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(warnings) > 0 {
		return fmt.Errorf("%s: %s", file, strings.Join(warnings, "\n"))
	}
	last := stages[len(stages)-1]
	has := map[string]string{}
	for _, c := range last.Commands {
		has[c.Name()] = fmt.Sprint(c)
	}
	if user := has["USER"]; user == "" || strings.HasPrefix(user, "USER 0") || strings.Contains(user, "root") {
		return fmt.Errorf("%s: the image runs as root", file)
	}
	fmt.Printf("%s: %d stages, the last from %s, %s\n", filepath.Base(file), len(stages), last.BaseName, has["USER"])
	return nil
}

// listContext prints the files of folder that the ignore file leaves in the context of a build.
func listContext(ignore, folder string) error {
	f, err := os.Open(ignore)
	if err != nil {
		return err
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return fmt.Errorf("%s: %w", ignore, err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return fmt.Errorf("%s: %w", ignore, err)
	}
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if err == nil && entry.Name() == ".git" {
				return filepath.SkipDir
			}
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err == nil && !ignored {
			fmt.Println(name)
		}
		return err
	})
}
