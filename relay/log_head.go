package relay

import (
	"bytes"
	"strings"
)

// struckOut stands in place of a secret.
const struckOut = "[struck out]"

// appendHeadWithoutSecrets appends the head of a response, line by line, without the values of the
// headers that may hold a secret and without the status line, which says nothing that the status
// does not. A last line that was cut off within its name is left out.
func appendHeadWithoutSecrets(dst, head []byte) []byte {
	_, rest, _ := bytes.Cut(head, []byte("\n"))
	secret := false
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') { // goes on with the header before
			if !secret {
				dst = append(dst, line...)
				dst = append(dst, '\n')
			}
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		dst = append(dst, name...)
		dst = append(dst, ": "...)
		if secret = secretHeader(name); secret {
			dst = append(dst, struckOut...)
		} else {
			dst = append(dst, bytes.TrimSpace(value)...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// secretWords make a header secret by standing anywhere in its name, in lower case.
var secretWords = [][]byte{
	[]byte("cookie"), []byte("auth"), []byte("token"), []byte("secret"), []byte("key"),
	[]byte("password"), []byte("session"), []byte("credential"), []byte("signature"),
}

// secretHeader reports whether the value of a header may be a secret: Set-Cookie, Authorization,
// WWW-Authenticate, Proxy-…, and whatever has such a word in its name.
func secretHeader(name []byte) bool {
	var buffer [64]byte
	lower := buffer[:0]
	for _, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	if bytes.HasPrefix(lower, []byte("proxy-")) {
		return true
	}
	for _, word := range secretWords {
		if bytes.Contains(lower, word) {
			return true
		}
	}
	return false
}

// headersOf reads what appendHeadWithoutSecrets wrote. The values of a name that comes more than
// once are joined by commas.
func headersOf(head string) map[string]string {
	headers := make(map[string]string)
	last := ""
	for line := range strings.Lines(head) {
		line = strings.TrimSuffix(line, "\n")
		name, value, ok := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			if last != "" {
				headers[last] += " " + strings.TrimSpace(line)
			}
			continue
		case !ok:
			continue
		}
		last = strings.TrimSpace(name)
		if before, twice := headers[last]; twice {
			value = before + ", " + value
		}
		headers[last] = value
	}
	return headers
}
