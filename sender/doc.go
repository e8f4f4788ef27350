// Package sender takes stored events out of JetStream and hands them over, strictly in the order
// in which they were stored, lane by lane.
//
// A lane holds the events of one endpoint and has one of them in flight: event n+1 is not tried
// before n was accepted or dropped. A lane costs a consumer and a goroutine only while it has work;
// while its head waits for the next attempt it costs a timer. Cursors say how far each lane has
// come and when its head is due: they are kept in JetStream, so that a restart goes on where the
// last process stopped, schedules included. After a kill at most the deliveries of the last 100 ms
// are repeated, in their order.
package sender
