package relay

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// mailLifetime is how long a mail is tried.
	mailLifetime = 24 * time.Hour
	// firstMailWait and longestMailWait bound the gap between two tries; it doubles.
	firstMailWait   = time.Second
	longestMailWait = 5 * time.Minute
)

// jsonLenient replaces what is not UTF-8.
var jsonLenient = jsontext.AllowInvalidUTF8(true)

// mailJob is one mail to one address: one bad address must not hold back the others.
type mailJob struct {
	// ID is made from what the mail tells and whom: queued again, it takes its own place.
	ID     string `json:"id"`
	To     string `json:"to"`
	Letter letter `json:"letter"`
}

// mailJobs are the mails of a notice, one for each address of the workspace.
func mailJobs(ws staffetta.Workspace, l letter, id string) []mailJob {
	jobs := make([]mailJob, len(ws.NotifyEmails))
	for i, to := range ws.NotifyEmails {
		sum := sha256.Sum256([]byte(id + "\x00" + to))
		jobs[i] = mailJob{ID: hex.EncodeToString(sum[:16]), To: to, Letter: l}
	}
	return jobs
}

// mailWait is the gap after the n-th failure, from 1: 1 s doubling to 5 minutes, of which up to a
// quarter is left off by chance, but for the least.
func mailWait(n int) time.Duration {
	wait := longestMailWait
	if n < 10 {
		wait = min(firstMailWait<<max(n-1, 0), longestMailWait)
	}
	return max(wait-rand.N(wait/4), firstMailWait)
}

// waitingMail is a stored mail as memory knows it.
type waitingMail struct {
	sequence uint64
	queuedAt time.Time
	due      time.Time
	failures int
}

// mailQueue is a heap by the time that mails are due, and then by the order they came in.
type mailQueue []waitingMail

func (q mailQueue) Len() int      { return len(q) }
func (q mailQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *mailQueue) Push(m any)   { *q = append(*q, m.(waitingMail)) }

func (q mailQueue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].sequence < q[j].sequence
}

func (q *mailQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// outbox sends the mails of the stream, one after the other, and removes each once it is sent.
type outbox struct {
	postman *postman
	writer  letterWriter
	log     zerolog.Logger
	stream  jetstream.Stream
	wake    chan struct{}

	// failures of the mail server in a row, until when it is left alone; the loop's own.
	failures int
	resumeAt time.Time

	mu            sync.Mutex
	queued        mailQueue
	sent, givenUp uint64
}

func newOutbox(p *postman, w letterWriter, log zerolog.Logger) *outbox {
	return &outbox{postman: p, writer: w, log: log, wake: make(chan struct{}, 1)}
}

func (o *outbox) counts() (sent, givenUp uint64, queued int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent, o.givenUp, len(o.queued)
}

// load finds the mails that a run before has left.
func (o *outbox) load(ctx context.Context, stream jetstream.Stream) error {
	o.stream = stream
	return eachNotice(ctx, stream, staffetta.NoticeMailSubjects, func(m *jetstream.RawStreamMsg) error {
		o.push(waitingMail{sequence: m.Sequence, queuedAt: m.Time})
		return nil
	})
}

// eachNotice calls f for every message of the stream with such a subject.
func eachNotice(ctx context.Context, stream jetstream.Stream, subjects string, f func(*jetstream.RawStreamMsg) error) error {
	for sequence := uint64(1); ; {
		m, err := stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(subjects))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err == nil {
			err = f(m)
		}
		if err != nil {
			return fmt.Errorf("read notices: %w", err)
		}
		sequence = m.Sequence + 1
	}
}

// queue stores a mail.
func (o *outbox) queue(ctx context.Context, js jetstream.JetStream, j mailJob) error {
	value, err := json.Marshal(j, jsonLenient)
	if err != nil {
		return err
	}
	ack, err := js.Publish(ctx, staffetta.NoticeMailSubject(j.ID), value)
	if err != nil {
		return err
	}
	o.push(waitingMail{sequence: ack.Sequence, queuedAt: time.Now()})
	return nil
}

func (o *outbox) push(m waitingMail) {
	o.mu.Lock()
	heap.Push(&o.queued, m)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// pop gives the first mail that is due; otherwise how long none is.
func (o *outbox) pop(now time.Time) (m waitingMail, wait time.Duration, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.queued) == 0:
		return m, time.Hour, false
	case now.Before(o.resumeAt):
		return m, o.resumeAt.Sub(now), false
	case now.Before(o.queued[0].due):
		return m, o.queued[0].due.Sub(now), false
	}
	return heap.Pop(&o.queued).(waitingMail), 0, true
}

// run sends until ctx ends; late ends a mail that is still under way then.
func (o *outbox) run(ctx, late context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		first, wait, ok := o.pop(time.Now())
		if ok {
			o.deliver(ctx, late, first)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-o.wake:
		case <-timer.C:
		}
	}
}

// deliver sends the mails that are due over one connection.
func (o *outbox) deliver(ctx, late context.Context, m waitingMail) {
	visit, err := o.postman.visit(late)
	if err != nil {
		o.push(m)
		o.serverFailed(late, err)
		return
	}
	defer visit.end()
	for ok := true; ok; m, _, ok = o.pop(time.Now()) {
		f, err := o.try(late, visit, m)
		switch f {
		case mailSent:
			if o.failures > 0 {
				o.log.Info().Msg("mail is sent again")
			}
			o.failures, o.resumeAt = 0, time.Time{}
			o.settle(late, m, &o.sent)
		case mailRefused:
			o.log.Error().Err(err).Msg("the mail server refuses a notice for good; it is given up")
			o.settle(late, m, &o.givenUp)
		case mailLater:
			o.postpone(late, m, err)
		case mailServerFailed:
			o.postpone(late, m, err)
			o.serverFailed(late, err)
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// try sends one mail.
func (o *outbox) try(ctx context.Context, visit *visit, m waitingMail) (fate, error) {
	stored, err := o.stream.GetMsg(ctx, m.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return mailRefused, errors.New("it is no longer in the store")
	}
	if err != nil {
		return mailLater, fmt.Errorf("read mail: %w", err)
	}
	var j mailJob
	if err := json.Unmarshal(stored.Data, &j, jsonLenient); err != nil {
		return mailRefused, fmt.Errorf("read mail: %w", err)
	}
	result, err := visit.send(o.writer.write(j.Letter), j.To, j.ID, stored.Time)
	if err != nil {
		err = fmt.Errorf("workspace %s: %w", j.Letter.Workspace, err)
	}
	return result, err
}

// settle removes a mail that needs no further try. While it cannot be removed no other is sent:
// after a restart it would be sent again.
func (o *outbox) settle(ctx context.Context, m waitingMail, count *uint64) {
	o.mu.Lock()
	*count++
	o.mu.Unlock()
	for {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		err := o.stream.DeleteMsg(bounded, m.sequence)
		cancel()
		if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
			return
		}
		o.log.Error().Err(err).Msg("cannot remove a mail that was sent; trying again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// postpone lets a mail wait for its next try, or gives it up when its time is over.
func (o *outbox) postpone(ctx context.Context, m waitingMail, err error) {
	now := time.Now()
	if now.Sub(m.queuedAt) >= mailLifetime {
		o.log.Error().Err(err).Time("queued_at", m.queuedAt).Msg("a notice could not be sent for a day; it is given up")
		o.settle(ctx, m, &o.givenUp)
		return
	}
	m.failures++
	m.due = now.Add(mailWait(m.failures))
	o.push(m)
}

// serverFailed leaves the mail server alone for a while, and gives up what has waited for a day.
func (o *outbox) serverFailed(ctx context.Context, err error) {
	now := time.Now()
	o.failures++
	o.mu.Lock()
	o.resumeAt = now.Add(mailWait(o.failures))
	var old []waitingMail
	kept := o.queued[:0]
	for _, m := range o.queued {
		if now.Sub(m.queuedAt) >= mailLifetime {
			old = append(old, m)
		} else {
			kept = append(kept, m)
		}
	}
	o.queued = kept
	heap.Init(&o.queued)
	waiting := len(kept)
	o.mu.Unlock()
	if o.failures == 1 {
		o.log.Error().Err(err).Int("waiting", waiting).Msg("cannot send mail; trying again until it can be")
	}
	if len(old) > 0 {
		o.log.Error().Err(err).Int("mails", len(old)).Msg("notices could not be sent for a day; they are given up")
	}
	for _, m := range old {
		o.settle(ctx, m, &o.givenUp)
	}
}
