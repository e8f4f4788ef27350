// Package bench measures the programs of this repository from outside: it starts them as they are
// shipped, sends them load over HTTP, stands for thousands of endpoints that take it, and judges every
// event by its sequence number. What it says about loss and order is exact; what it says about speed is
// a ratio to what the same machine does in the same minute with nothing in between.
//
// The parts, from the one that knows least: a [Pacer] plans sends, [Templates] are payloads whose
// events differ in fixed places, a [Track] is one sequence of events from one producer, the [Judge]
// sees whether all of it arrives once and in order, the [Sink] is the endpoints and their faults,
// [Producers] send in a closed or an open loop. A [Rig] is all of that around a running program, and a
// [Scenario] says what is done with it. To add one, write its Run and give it a line in [Scenarios].
package bench
