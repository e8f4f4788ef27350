package staffetta

import (
	"embed"
	"strings"
)

// samples holds one real event a type, and those of the message types in a folder of their own.
//
//go:embed respondio/*.json respondio/message-types/*.json
var samples embed.FS

// Sample is an example of an event of respond.io's, in its canonical form, for test sends, the
// demo and the bench. It is nil for a type that respond.io does not have. The caller owns the copy.
func Sample(eventType string) []byte {
	if !validEventType(eventType) {
		return nil // a path, not a type
	}
	payload, err := samples.ReadFile("respondio/" + eventType + ".json")
	if err != nil {
		return nil
	}
	return payload
}

// SampleVariants are further examples of message.received and message.sent, one for each kind of
// message and named after it, such as "message.received.attachment.image". The caller owns the copies.
func SampleVariants() map[string][]byte {
	const folder = "respondio/message-types"
	entries, err := samples.ReadDir(folder)
	if err != nil {
		panic(err) // unreachable: the folder is embedded
	}
	variants := make(map[string][]byte, len(entries))
	for _, entry := range entries {
		payload, err := samples.ReadFile(folder + "/" + entry.Name())
		if err != nil {
			panic(err) // unreachable: the folder is embedded
		}
		variants[strings.TrimSuffix(entry.Name(), ".json")] = payload
	}
	return variants
}
