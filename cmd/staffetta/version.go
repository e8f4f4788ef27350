package main

import "fmt"

type versionCommand struct{}

func (versionCommand) Run(s *surroundings) error {
	_, err := fmt.Fprintln(s.stdout, "staffetta", version)
	return err
}
