// Command check reads what lies in deploy as its users would: the Kubernetes manifests with the API's own
// types, where an unknown field or a name that leads nowhere is an error, and the Containerfile with
// BuildKit's parser and rules. It is a module of its own, so that nothing of this is among the program's
// dependencies. .ci/deploy runs it.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "manifest":
		return checkManifest(args[1], args[2])
	case len(args) == 2 && args[0] == "containerfile":
		return checkContainerfile(args[1])
	case len(args) == 3 && args[0] == "context":
		return listContext(args[1], args[2])
	default:
		return errors.New("usage: check manifest FILE FOLDER | containerfile FILE | context IGNOREFILE FOLDER")
	}
}
