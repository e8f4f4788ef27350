package main

import (
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// An address whose queue of new connections is full answers none: dialling it times out after ten
// seconds. (An answer that does not come takes a minute; the way to the 504 is the same.)
func TestReceiverAnswers504WhereTheUpstreamDoesNotAnswerInTime(t *testing.T) {
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for { // fill the queue
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	l, _ := passTo(t, "http://"+address)
	if r := l.do("GET", "http://"+l.address+"/page", ""); r.status != http.StatusGatewayTimeout {
		t.Errorf("the answer is %d %q", r.status, r.body)
	}
}
