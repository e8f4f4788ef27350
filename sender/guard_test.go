package sender

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// The IANA special-purpose address registries, entry by entry, with the edges of each network, and
// the neighbours that are public.
func TestGuardRefusesEverySpecialPurposeAddress(t *testing.T) {
	refused := strings.FieldsSeq(`
		0.0.0.0 0.0.0.1 0.255.255.255
		10.0.0.0 10.1.2.3 10.255.255.255
		100.64.0.0 100.100.100.200 100.127.255.255
		127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255
		168.63.129.16
		169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255
		172.16.0.0 172.31.255.255
		192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.170 192.0.0.192 192.0.0.255
		192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.1 192.88.99.255
		192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255
		198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255
		224.0.0.0 224.0.0.251 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255

		:: ::1 ::2 ::7f00:1 ::8.8.8.8
		::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:0
		::ffff:0:8.8.8.8
		64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254
		64:ff9b:1:: 64:ff9b:1::8.8.8.8 64:ff9b:1:ffff:ffff:ffff:ffff:ffff
		100:: 100::1 100:0:0:1::1
		2001:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:1::1 2001:2::1 2001:10::1
		2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
		2001:db8:: 2001:db8::1 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff
		2002:: 2002:7f00:1:: 2002:a00:1::1 2002:808:808::1
		3fff:: 3fff:fff:ffff::1 5f00:: 5f00::1
		fc00:: fd00::1 fd00:ec2::254 fdff::1 fe80:: fe80::1 febf::1 fec0:: fec0::1 feff::1
		ff00:: ff02::1 ff05::2 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
		fe80::1%eth0 2606:4700::1%eth0
		4000::1 1fff::1 8000::1 e000::1 f000::1
	`)
	for text := range refused {
		addr := netip.MustParseAddr(text)
		err := Guard{}.Check(addr)
		if _, ok := errors.AsType[*forbiddenAddress](err); !ok {
			t.Errorf("%s: error %v, want it refused", text, err)
		} else if !strings.HasPrefix(err.Error(), addr.String()+" is a") {
			t.Errorf("%s: the error does not name the address and its kind: %v", text, err)
		}
		if err := (Guard{AllowAll: true}).Check(addr); err != nil {
			t.Errorf("%s: refused although everything is allowed: %v", text, err)
		}
	}
	if err := (Guard{}).Check(netip.Addr{}); err == nil {
		t.Error("no address at all: allowed")
	}

	public := strings.FieldsSeq(`
		1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
		168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0
		192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255
		198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
		2000::1 2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2003::1 2606:4700:4700::1111
		2a00:1450::1 3ffe::1
		::ffff:8.8.8.8 64:ff9b::8.8.8.8
	`)
	for text := range public {
		if err := (Guard{}).Check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: refused: %v", text, err)
		}
	}
}

func TestGuardAllowsTheNetworksOfTheOperatorAndNoMore(t *testing.T) {
	g, err := ParseGuard(" 10.1.0.0/16, 127.0.0.1,fd12::/16 ,::ffff:192.168.7.0/120, fe80::/10")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "127.0.0.2": false,
		"fd12::1": true, "fd13::1": false, "192.168.7.9": true, "192.168.8.9": false,
		"::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "::ffff:10.2.0.1": false, "::10.1.2.3": false,
		"fe80::1": true, "fe80::1%eth0": false, "8.8.8.8": true, "169.254.169.254": false,
	} {
		if got := g.Check(netip.MustParseAddr(text)) == nil; got != want {
			t.Errorf("%s: allowed is %v, want %v", text, got, want)
		}
	}
}

func TestGuardIsReadFromAFlag(t *testing.T) {
	for spec, want := range map[string]bool{"": false, "false": false, " ": false, "true": true, "ALL": true, "all ": true} {
		g, err := ParseGuard(spec)
		if err != nil || g.AllowAll != want || len(g.Allow) != 0 {
			t.Errorf("%q: %+v, %v", spec, g, err)
		}
	}
	for _, spec := range []string{"yes", "10.0.0.0/33", "10.0.0.0/8,", "10.0.0.0/8;10.1.0.0/8", "example.com", "127.1", "0x7f.1", "fe80::1%eth0", "10.0.0.0/8 192.168.0.0/16"} {
		if g, err := ParseGuard(spec); err == nil {
			t.Errorf("%q: read as %+v, want an error", spec, g)
		}
	}
}
