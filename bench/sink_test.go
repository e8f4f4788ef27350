package bench

import (
	"errors"
	"io"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// customer delivers to a sink as a relay does.
type customer struct {
	t         *testing.T
	sink      *Sink
	dial      fasthttp.DialFunc
	templates *Templates
	clients   map[string]*fasthttp.HostClient
	key       string
}

func newCustomer(t *testing.T, sink *Sink, dial fasthttp.DialFunc) *customer {
	templates, err := NewTemplates(MinPayload)
	if err != nil {
		t.Fatal(err)
	}
	return &customer{t: t, sink: sink, dial: dial, templates: templates, clients: map[string]*fasthttp.HostClient{}, key: staffetta.NewSigningKey()}
}

// deliver posts an event and gives the status, or the error.
func (c *customer) deliver(endpoint int, m Mark, attempt int) (int, error) {
	u, err := url.Parse(c.sink.URL(endpoint))
	if err != nil {
		c.t.Fatal(err)
	}
	client := c.clients[u.Host]
	if client == nil {
		client = &fasthttp.HostClient{Addr: u.Host, Dial: c.dial, MaxIdemponentCallAttempts: 1, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
		c.clients[u.Host] = client
	}
	body := make([]byte, MinPayload)
	c.templates.Of("call.ended")[0].Render(body, m)
	signer, err := staffetta.NewSigner(c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod("POST")
	req.SetRequestURI(u.String())
	req.Header.Set("Staffetta-Attempt", strconv.Itoa(attempt))
	req.Header.Set("webhook-id", "id")
	req.Header.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix(), 10))
	req.Header.SetBytesV("webhook-signature", signer.AppendStandard(nil, "id", time.Now().Unix(), body))
	req.Header.SetBytesV("X-Webhook-Signature", signer.AppendRespondIO(nil, body))
	req.SetBody(body)
	if err := client.Do(req, resp); err != nil {
		return 0, err
	}
	return resp.StatusCode(), nil
}

func (c *customer) close() {
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// inBubble runs a test with a sink in memory.
func inBubble(t *testing.T, plan Plan, test func(*testing.T, *customer)) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemory()
		sink, err := NewSink(SinkConfig{Endpoints: 10, Plan: plan, Listen: network.listen})
		if err != nil {
			t.Fatal(err)
		}
		c := newCustomer(t, sink, network.dial)
		test(t, c)
		c.close()
		sink.Close()
		pause(t.Context(), time.Minute) // fasthttp's clients end
	})
}

func TestASlowEndpointTakesItsTime(t *testing.T) {
	plan := Plan{{Kind: FaultSlow, First: 1, Last: 1, Median: 700 * time.Millisecond, P99: 700 * time.Millisecond}}
	inBubble(t, plan, func(t *testing.T, c *customer) {
		for endpoint, want := range []time.Duration{0, 700 * time.Millisecond} {
			start := time.Now()
			if status, err := c.deliver(endpoint, Mark{}, 1); status != 200 || err != nil {
				t.Errorf("endpoint %d: %d %v", endpoint, status, err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("endpoint %d took %s, want %s", endpoint, took, want)
			}
		}
	})
}

func TestTheTimesOfASlowEndpointAreDistributedAsPlanned(t *testing.T) {
	f := Fault{Kind: FaultSlow, Median: 100 * time.Millisecond, P99: time.Second}
	for roll, want := range map[float64]time.Duration{0.5: 100 * time.Millisecond, 0.99: time.Second, 0.01: 10 * time.Millisecond} {
		if got := f.Delay(roll); got < want*999/1000 || got > want*1001/1000 {
			t.Errorf("roll %g: %s, want %s", roll, got, want)
		}
	}
	if f.Delay(0) <= 0 || f.Delay(1) > time.Hour {
		t.Errorf("the ends are %s and %s", f.Delay(0), f.Delay(1))
	}
}

func TestARateBefallsItsShareOfTheRequests(t *testing.T) {
	plan := Plan{{Kind: FaultStatus, First: 0, Last: 9, Rate: 0.25, Status: 500}}
	inBubble(t, plan, func(t *testing.T, c *customer) {
		failed := 0
		for n := range uint32(400) {
			status, err := c.deliver(int(n%10), Mark{Sequence: n}, 1)
			if err != nil || status != 200 && status != 500 {
				t.Fatal(status, err)
			}
			if status == 500 {
				failed++
			}
		}
		if failed < 70 || failed > 130 {
			t.Errorf("%d of 400 failed, want about 100", failed)
		}
		if r := c.sink.Report(); r.Requests != 400 || r.Refused != int64(failed) {
			t.Errorf("%+v", r)
		}
	})
}

func TestAnEndpointThatHangsNeverAnswers(t *testing.T) {
	inBubble(t, Plan{{Kind: FaultHang, First: 3, Last: 3}}, func(t *testing.T, c *customer) {
		start := time.Now()
		if status, err := c.deliver(3, Mark{}, 1); err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("status %d, %v after %s", status, err, time.Since(start))
		}
		if status, err := c.deliver(4, Mark{}, 1); status != 200 || err != nil {
			t.Errorf("another one: %d %v", status, err)
		}
	})
}

func TestAnEndpointThatTricklesAnswersByteByByte(t *testing.T) {
	inBubble(t, Plan{{Kind: FaultTrickle, First: 3, Last: 3, Median: 10 * time.Millisecond}}, func(t *testing.T, c *customer) {
		start := time.Now()
		status, err := c.deliver(3, Mark{}, 1)
		if took := time.Since(start); status != 200 || err != nil || took < 500*time.Millisecond || took > 700*time.Millisecond {
			t.Errorf("status %d, %v after %s", status, err, took)
		}
	})
}

func TestAnEndpointIsDownFromOneTimeToAnother(t *testing.T) {
	inBubble(t, Plan{{Kind: FaultRefuse, First: 2, Last: 2, From: 10 * time.Second, To: 30 * time.Second}}, func(t *testing.T, c *customer) {
		for _, step := range []struct {
			at   time.Duration
			well bool
		}{{0, true}, {9 * time.Second, true}, {11 * time.Second, false}, {29 * time.Second, false}, {31 * time.Second, true}} {
			pause(t.Context(), time.Until(c.sink.started.Add(step.at)))
			status, err := c.deliver(2, Mark{}, 1)
			if well := status == 200 && err == nil; well != step.well {
				t.Errorf("at %s: %d %v", step.at, status, err)
			}
			if status, err := c.deliver(3, Mark{}, 1); status != 200 || err != nil {
				t.Errorf("its neighbour at %s: %d %v", step.at, status, err)
			}
		}
	})
}

func TestOverTCPAnEndpointResetsOrRefuses(t *testing.T) {
	sink, err := NewSink(SinkConfig{Endpoints: 3, Plan: Plan{{Kind: FaultReset, First: 0, Last: 0}, {Kind: FaultRefuse, First: 1, Last: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	c := newCustomer(t, sink, nil)
	defer c.close()
	if status, err := c.deliver(0, Mark{}, 1); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) && !errors.Is(err, fasthttp.ErrConnectionClosed) {
		t.Errorf("reset: %d %v", status, err)
	}
	if status, err := c.deliver(1, Mark{}, 1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refuse: %d %v", status, err)
	}
	if status, err := c.deliver(2, Mark{}, 1); status != 200 || err != nil {
		t.Errorf("well: %d %v", status, err)
	}
}

func TestTheSinkJudgesWhatItAnswers(t *testing.T) {
	plan := Plan{{Kind: FaultStatus, First: 0, Last: 0, To: time.Second, Status: 503}}
	inBubble(t, plan, func(t *testing.T, c *customer) {
		j, _ := judged(1, 2)
		c.sink.Judged(j)
		c.sink.SetKey(0, c.key)
		for attempt := 1; attempt <= 3; attempt++ {
			if status, err := c.deliver(0, Mark{}, attempt); err != nil || (status == 200) != (attempt == 3) {
				t.Errorf("attempt %d: %d %v", attempt, status, err)
			}
			pause(t.Context(), 600*time.Millisecond)
		}
		if _, err := c.deliver(0, Mark{Sequence: 1}, 1); err != nil {
			t.Error(err)
		}
		if got := j.Judge(); got.Arrived != 2 || got.Lost+got.Duplicated+got.OutOfOrder != 0 {
			t.Errorf("%+v", got)
		}
		want := SinkReport{Requests: 4, Refused: 2, HighestAttempt: 3, Verified: 1}
		if got := c.sink.Report(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		c.key = staffetta.NewSigningKey()
		if _, err := c.deliver(0, Mark{}, 1); err != nil {
			t.Error(err)
		}
		if got := c.sink.Report(); got.BadSignatures != 1 {
			t.Errorf("%+v", got)
		}
	})
}
