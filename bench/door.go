package bench

import (
	"fmt"
	"net"
	"sync"
)

// door is a listener of its own for endpoints that are down for a time.
type door struct {
	sink    *Sink
	fault   *Fault
	address string
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	l       net.Listener // nil while it is shut
}

// doorListener keeps the connections, so that they can be cut when the door closes.
type doorListener struct {
	net.Listener
	door *door
}

func (l doorListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.door.mu.Lock()
	l.door.conns[c] = struct{}{}
	l.door.mu.Unlock()
	return doorConn{c, l.door}, nil
}

type doorConn struct {
	net.Conn
	door *door
}

func (c doorConn) Close() error {
	c.door.mu.Lock()
	delete(c.door.conns, c.Conn)
	c.door.mu.Unlock()
	return c.Conn.Close()
}

// openDoor binds an address for a line of the plan, and closes and opens it when the line says.
func (s *Sink) openDoor(f *Fault) (*door, error) {
	l, err := s.cfg.Listen(net.JoinHostPort(s.cfg.Host, "0"))
	if err != nil {
		return nil, fmt.Errorf("open the sink: %w", err)
	}
	d := &door{sink: s, fault: f, address: l.Addr().String(), conns: make(map[net.Conn]struct{}), l: l}
	if f.From > 0 {
		s.serve(doorListener{l, d})
	} else {
		d.shut()
	}
	s.running.Go(d.swing)
	return d, nil
}

// swing closes the door when its fault begins and opens it when that ends.
func (d *door) swing() {
	if d.fault.From > 0 {
		d.sink.wait(d.fault.From)
		d.shut()
	}
	if d.fault.To == 0 {
		return
	}
	d.sink.wait(d.fault.To - d.fault.From)
	if !d.sink.closed() {
		_ = d.open() // somebody took the port: it stays down, and the judge will say what is lost
	}
}

// shut has nobody listen, and resets the connections.
func (d *door) shut() {
	d.mu.Lock()
	if d.l != nil {
		_ = d.l.Close()
		d.l = nil
	}
	d.mu.Unlock()
	d.cut()
}

// open listens again.
func (d *door) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.l != nil {
		return nil
	}
	l, err := d.sink.cfg.Listen(d.address)
	if err != nil {
		return fmt.Errorf("open the sink again: %w", err)
	}
	d.l = l
	d.sink.serve(doorListener{l, d})
	return nil
}

// cut resets the connections that are open.
func (d *door) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
			_ = t.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(d.conns)
}
