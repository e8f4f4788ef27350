package relay

import (
	"maps"
	"strings"
	"testing"
)

func TestTheSecretsOfAResponseAreStruckOut(t *testing.T) {
	head := strings.Join([]string{
		"HTTP/1.1 401 Unauthorized secret-in-the-reason", "Server: nginx", "Set-Cookie: sid=hidden1; Path=/", "set-cookie: b=hidden2",
		"AUTHORIZATION: Bearer hidden3", "WWW-Authenticate: Digest nonce=hidden4", "\tqop=hidden5", "Proxy-Status: hidden6",
		"X-Api-Key: hidden7", "X-Amz-Security-Token:hidden8", "Client-SECRET: hidden9", "Via: a", "Via: b", " c", "Date:now",
		"no colon", "Retry-After: 5", "X-Session", "",
	}, "\r\n")
	for _, text := range []string{head, strings.ReplaceAll(head, "\r", "")} {
		clean := string(appendHeadWithoutSecrets(nil, []byte(text)))
		if strings.Contains(clean, "hidden") || strings.Contains(clean, "reason") {
			t.Errorf("not struck out: %s", clean)
		}
		want := map[string]string{
			"Server": "nginx", "Set-Cookie": struckOut, "set-cookie": struckOut, "AUTHORIZATION": struckOut,
			"WWW-Authenticate": struckOut, "Proxy-Status": struckOut, "X-Api-Key": struckOut, "X-Amz-Security-Token": struckOut,
			"Client-SECRET": struckOut, "Via": "a, b c", "Date": "now", "Retry-After": "5",
		}
		if got := headersOf(clean); !maps.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	}
	// Wherever a head is cut off, nothing secret is left.
	for n := range len(head) {
		if clean := appendHeadWithoutSecrets(nil, []byte(head[:n])); strings.Contains(string(clean), "hidden") {
			t.Fatalf("cut off at %d: %s", n, clean)
		}
	}
}
