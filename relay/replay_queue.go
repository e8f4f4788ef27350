package relay

import (
	"context"
	"errors"
)

// errReplayCancelled is why the context of a replay ends before the relay's.
var errReplayCancelled = errors.New("the replay was cancelled")

// enqueue puts a replay behind those of its workspace.
func (r *Replays) enqueue(job *replayJob) {
	r.mu.Lock()
	defer r.mu.Unlock()
	workspace := job.record.Workspace
	r.open[job.name] = job
	r.queues[workspace] = append(r.queues[workspace], job)
	if len(r.queues[workspace]) == 1 && r.running != nil {
		r.work(workspace)
	}
}

// Run works on the replays until ctx ends; the next Run goes on where this one stopped.
func (r *Replays) Run(ctx context.Context) {
	r.mu.Lock()
	r.running = ctx
	for workspace := range r.queues {
		r.work(workspace)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.running = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// work runs the replays of a workspace, of which there are some, one after the other, until there is
// none. The lock is held.
func (r *Replays) work(workspace string) {
	ctx := r.running
	r.wg.Go(func() {
		for more := true; more; {
			job := r.first(workspace)
			select {
			case r.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			ended := job.run(ctx)
			<-r.slots
			if !ended {
				return // the relay stops: it goes on at the next start
			}
			more = r.dequeue(job)
		}
	})
}

func (r *Replays) first(workspace string) *replayJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queues[workspace][0]
}

// dequeue takes the replay at the head of its workspace's queue out, and reports whether there are more.
func (r *Replays) dequeue(job *replayJob) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	workspace := job.record.Workspace
	delete(r.open, job.name)
	r.queues[workspace] = r.queues[workspace][1:]
	if more = len(r.queues[workspace]) > 0; !more {
		delete(r.queues, workspace)
	}
	close(job.done)
	return more
}
