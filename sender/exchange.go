package sender

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// Bounds of an exchange, in bytes.
const (
	// smallHead is the size of the usual reader. An endpoint that hangs holds one for its whole
	// deadline, so it is not larger than most heads need.
	smallHead = 4 << 10
	// maxHead is the largest response head.
	maxHead = 16 << 10
	// maxBody is how much of a response body is read so that the connection can be used again.
	maxBody = 64 << 10
	// maxJoined is the largest body that is copied behind its head, for a single write.
	maxJoined = 16 << 10
	// maxInterim is how many 1xx responses may come before the final one.
	maxInterim = 8
)

// exchange is the working memory of one request and its response.
type exchange struct {
	out      []byte // the request head, and the body while it is small
	headSize int    // of out, the part that is the head
	conn     io.Reader
	small    *bufio.Reader // of the exchange itself, see Read
	br       *bufio.Reader // small, or a larger one on top of it
	resp     fasthttp.Response

	begun     bool // a byte of the response has come
	parsing   bool // the head is whole: its parser may not ask for more
	firstByte time.Time
}

func newExchange() *exchange {
	return &exchange{small: bufio.NewReaderSize(nil, smallHead)}
}

// forget lets go of the connection and of large buffers.
func (x *exchange) forget() {
	x.conn = nil
	x.resp.ResetBody()
}

// start makes the exchange ready to read a response from conn.
func (x *exchange) start(conn io.Reader) {
	x.conn = conn
	x.small.Reset(x)
	x.br, x.begun, x.parsing = x.small, false, false
}

// Read reads from the connection, but not while a head is parsed that is already there: fasthttp
// would wait for the end of one that it does not take for whole, such as one with bare line feeds.
func (x *exchange) Read(p []byte) (int, error) {
	if x.parsing {
		return 0, io.ErrUnexpectedEOF
	}
	return x.conn.Read(p)
}

// run sends the request and reads the response. It reports whether the connection can be used
// again, and whether it was stale: used before, and spoiled before the request.
func (x *exchange) run(conn *peerConn, body []byte, a *Attempt) (reusable, stale bool) {
	x.start(conn)
	writeErr := x.write(conn, body)
	written := time.Now()
	var status int
	err := writeErr
	if writeErr == nil || !isTimeout(writeErr) && !isLocalFault(writeErr) {
		// An endpoint may answer and close before it has read all: what it said counts.
		if status, err = x.readHead(a); err != nil && writeErr != nil && !x.begun {
			err = writeErr
		}
	}
	a.Duration = time.Since(a.StartedAt)
	if x.begun {
		a.FirstByte = x.firstByte.Sub(written)
	}
	if err != nil {
		a.Outcome = exchangeOutcome(err, x.begun)
		return false, a.Reused && wasThere(err, x.begun)
	}
	reusable = x.readBody(a, status)
	if status == fasthttp.StatusRequestTimeout && a.Reused && !reusable {
		// Some servers say 408 and close when a connection was idle for too long: it was there
		// before the request.
		return false, true
	}
	a.Outcome.Status = status
	return reusable && writeErr == nil, false
}

// wasThere reports whether the failure of an exchange can have been on the connection before the
// request: it was closed, or what came back is left from the response before.
func wasThere(err error, begun bool) bool {
	if begun {
		return errors.Is(err, errNotHTTP)
	}
	return !isTimeout(err) && !isLocalFault(err)
}

// write sends the head that out holds, and the body. A small body goes out in one write with its
// head, which is one packet and one TLS record less.
func (x *exchange) write(conn io.Writer, body []byte) error {
	if len(body) <= maxJoined {
		x.out = append(x.out[:x.headSize], body...)
		_, err := conn.Write(x.out)
		return err
	}
	if _, err := conn.Write(x.out[:x.headSize]); err != nil {
		return err
	}
	_, err := conn.Write(body)
	return err
}

// readHead reads up to the end of the final response's head, keeps it in a and gives its status. It
// does not look into the header: once the head is whole, the status counts whatever follows.
func (x *exchange) readHead(a *Attempt) (status int, err error) {
	for range maxInterim + 1 {
		head, err := x.peekHead()
		if err != nil {
			return 0, err
		}
		if status = statusOf(head); status == 0 {
			return 0, errNotHTTP
		}
		if status >= 200 || status == fasthttp.StatusSwitchingProtocols {
			a.Head = append(a.Head, head[:min(len(head), keptHead)]...)
			return status, nil
		}
		if _, err := x.br.Discard(len(head)); err != nil {
			return 0, err
		}
	}
	return 0, errInterim
}

// peekHead waits until a whole head is in the reader, and gives it without taking it out.
func (x *exchange) peekHead() ([]byte, error) {
	scanned := 0
	for {
		head, _ := x.br.Peek(x.br.Buffered())
		if len(head) > 0 && !mayBeHTTP(head) {
			return nil, errNotHTTP
		}
		if end := endOfHead(head, scanned); end > 0 {
			return head[:end], nil
		}
		scanned = len(head)
		_, err := x.br.Peek(len(head) + 1)
		switch {
		case err == nil:
			if !x.begun {
				x.begun, x.firstByte = true, time.Now()
			}
		case errors.Is(err, bufio.ErrBufferFull) && x.br == x.small:
			x.br, scanned = bufio.NewReaderSize(x.small, maxHead), 0
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errHeadTooLarge
		default:
			return nil, err
		}
	}
}

// mayBeHTTP reports whether head can be the beginning of a response. Something else is not worth
// the wait for its end.
func mayBeHTTP(head []byte) bool {
	const proto = "HTTP/1."
	n := min(len(head), len(proto))
	return string(head[:n]) == proto[:n]
}

// endOfHead finds the empty line that ends a head, and gives the length of the head with it, or 0.
// The first scanned bytes were looked at before.
func endOfHead(head []byte, scanned int) int {
	for i := max(scanned-2, 0); ; i++ {
		next := bytes.IndexByte(head[i:], '\n')
		if next < 0 {
			return 0
		}
		i += next
		switch rest := head[i+1:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 2
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3
		}
	}
}

// statusOf reads the status line "HTTP/1.x 200 …"; 0 when it is not one. It is read here because
// fasthttp says 200 where there is no status.
func statusOf(head []byte) int {
	if len(head) < len("HTTP/1.1 200\n") || head[7] < '0' || head[7] > '9' || head[8] != ' ' {
		return 0
	}
	if after := head[12]; after != ' ' && after != '\r' && after != '\n' {
		return 0
	}
	status := 0
	for _, digit := range head[9:12] {
		if digit < '0' || digit > '9' {
			return 0
		}
		status = status*10 + int(digit-'0')
	}
	if status < 100 {
		return 0
	}
	return status
}

// readBody reads the body, for the record and so that the connection can be used again, and
// reports whether it can: the response was read to its end and neither side says close. The status
// is settled by then. A header that fasthttp does not accept leaves the end of the response
// unknown.
func (x *exchange) readBody(a *Attempt, status int) (reusable bool) {
	header := &x.resp.Header
	x.parsing = true
	err := header.Read(x.br)
	x.parsing = false
	if err != nil || status == fasthttp.StatusSwitchingProtocols {
		return false
	}
	closing := header.ConnectionClose() || hasClose(header.Peek(fasthttp.HeaderConnection))
	if status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified {
		return !closing && x.empty()
	}
	length := header.ContentLength() // -1: chunked, -2: until the connection is closed
	if length > maxBody {
		a.Body = x.readStart(a.Body)
		return false
	}
	err = x.resp.ReadBody(x.br, maxBody)
	body := x.resp.Body()
	a.Body = append(a.Body, body[:min(len(body), keptBody)]...)
	if err == nil && length == -1 {
		err = header.ReadTrailer(x.br)
	}
	return err == nil && length != -2 && !closing && x.empty()
}

// readStart reads the first bytes of a body that is not read to its end.
func (x *exchange) readStart(dst []byte) []byte {
	for len(dst) < keptBody {
		if _, err := x.br.Peek(1); err != nil {
			break
		}
		b, _ := x.br.Peek(min(x.br.Buffered(), keptBody-len(dst)))
		dst = append(dst, b...)
		_, _ = x.br.Discard(len(b))
	}
	return dst
}

// empty reports whether nothing came after the response: what did would be taken for the next one.
func (x *exchange) empty() bool {
	return x.br.Buffered() == 0 && x.small.Buffered() == 0
}

// hasClose reports whether a Connection header lists close.
func hasClose(value []byte) bool {
	for token := range bytes.SplitSeq(value, []byte(",")) {
		if bytes.EqualFold(bytes.TrimSpace(token), []byte("close")) {
			return true
		}
	}
	return false
}
