package bench

import (
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/valyala/fasthttp/fasthttputil"
)

// memory is a network of in-memory listeners, for bubbles of synctest.
type memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
}

func newMemory() *memory { return &memory{listeners: map[string]*memoryListener{}} }

type memoryListener struct {
	*fasthttputil.InmemoryListener
	network *memory
	address memoryAddress
}

type memoryAddress string

func (memoryAddress) Network() string  { return "memory" }
func (a memoryAddress) String() string { return string(a) }

func (l *memoryListener) Addr() net.Addr { return l.address }

func (l *memoryListener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.network.listeners[string(l.address)] == l {
		l.network.listeners[string(l.address)] = nil
	}
	return l.InmemoryListener.Close()
}

// listen is for SinkConfig; port 0 gets the next one.
func (m *memory) listen(address string) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if host, port, _ := net.SplitHostPort(address); port == "0" {
		address = fmt.Sprintf("%s:%d", host, len(m.listeners)+1)
	}
	if m.listeners[address] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &memoryListener{fasthttputil.NewInmemoryListener(), m, memoryAddress(address)}
	m.listeners[address] = l
	return l, nil
}

// dial is for clients.
func (m *memory) dial(address string) (net.Conn, error) {
	m.mu.Lock()
	l := m.listeners[address]
	m.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	return l.Dial()
}
