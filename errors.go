package staffetta

import "errors"

// InputError says what is wrong with something a caller gave us and what to do about it.
// It is the one error type whose fields callers read: the relay turns Code, Field and Detail
// into a problem document, the command line prints Error.
type InputError struct {
	// Code is stable and made for programs, such as "duplicate_key" or "invalid_url".
	Code string
	// Field names the member or the flag at fault; for a payload it is a JSON pointer. It may be empty.
	Field string
	// Offset is the byte position in the payload where reading stopped, or -1 where that has no meaning.
	Offset int
	// Detail is a sentence for a person. It never repeats a payload or a key.
	Detail string
}

func (e *InputError) Error() string {
	if e.Field == "" {
		return e.Detail
	}
	return e.Field + ": " + e.Detail
}

// invalid builds an InputError about a field.
func invalid(code, field, detail string) *InputError {
	return &InputError{Code: code, Field: field, Offset: -1, Detail: detail}
}

var (
	// ErrSignatureMissing says that a request carries none of the headers its scheme asks for.
	ErrSignatureMissing = errors.New("signature is missing")
	// ErrSignatureInvalid says that no signature of a request matches any of the keys.
	ErrSignatureInvalid = errors.New("signature does not match")
	// ErrTimestampOutside says that a signed timestamp is too old or too far ahead.
	ErrTimestampOutside = errors.New("signed timestamp is outside the tolerance")
)
