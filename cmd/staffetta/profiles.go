package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // registers with the default mux, which only --debug-listen serves
)

// serveProfiles serves Go's profiles at an address until stop is called; at none where it is empty.
func serveProfiles(address string) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for profiles: %w", err)
	}
	go func() { _ = http.Serve(l, http.DefaultServeMux) }() // ends with the listener
	return func() { _ = l.Close() }, nil
}
