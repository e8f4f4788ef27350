package sender

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Guard says which addresses may be dialled. It is asked about the address of every connection,
// after the name was resolved, so a name that leads elsewhere the next time is caught as well. The
// zero value refuses every special-purpose address: what the IANA registries (RFC 6890 and what
// was added since) do not call globally reachable, and the metadata addresses of cloud platforms.
type Guard struct {
	// Allow are networks that may be dialled although they are special. An IPv4 network covers the
	// IPv6 addresses that stand for its addresses (::ffff:0:0/96 and 64:ff9b::/96).
	Allow []netip.Prefix
	// AllowAll turns the guard off.
	AllowAll bool
}

// ParseGuard reads what an operator writes: "" (or "false") refuses every special-purpose address,
// "true" or "all" allows everything, anything else is a comma-separated list of CIDRs and addresses
// to allow.
func ParseGuard(spec string) (Guard, error) {
	switch strings.ToLower(strings.TrimSpace(spec)) {
	case "", "false":
		return Guard{}, nil
	case "true", "all":
		return Guard{AllowAll: true}, nil
	}
	var g Guard
	for part := range strings.SplitSeq(spec, ",") {
		prefix, err := parseNetwork(strings.TrimSpace(part))
		if err != nil {
			return Guard{}, fmt.Errorf("parse network %q: want all, or a comma-separated list such as 10.0.0.0/8,192.168.1.7,fd00::/8", part)
		}
		g.Allow = append(g.Allow, prefix)
	}
	return g, nil
}

// parseNetwork reads a CIDR or an address; one that stands for an IPv4 network becomes that network.
func parseNetwork(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errors.New("neither a network nor an address")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// Check reports why addr may not be dialled; nil when it may.
func (g Guard) Check(addr netip.Addr) error {
	if g.AllowAll {
		return nil
	}
	if !addr.IsValid() || addr.Zone() != "" {
		return &forbiddenAddress{addr, "an address of one machine's interface"}
	}
	target := embedded4(addr)
	for _, allowed := range g.Allow {
		if allowed.Contains(target) || allowed.Contains(addr) {
			return nil
		}
	}
	for _, network := range specialNetworks {
		if network.prefix.Contains(target) {
			return &forbiddenAddress{addr, network.kind}
		}
	}
	if target.Is6() && !globalUnicast.Contains(target) {
		return &forbiddenAddress{addr, "a reserved address"}
	}
	return nil
}

// forbiddenAddress is what Check answers. Its text names the address and is for the operator; the
// outcome of an attempt carries the kind alone, so that nobody reads off it which internal address
// a name leads to.
type forbiddenAddress struct {
	addr netip.Addr
	kind string
}

func (e *forbiddenAddress) Error() string {
	return e.addr.String() + " is " + e.kind + ", which is not dialled unless the operator allows it"
}

// embedded4 gives the IPv4 address that an IPv6 address stands for, by mapping or by NAT64, and any
// other address as it is. The other embeddings (IPv4-compatible, 6to4, Teredo, local NAT64) are
// out of use on the public internet: the guard refuses them whole.
func embedded4(addr netip.Addr) netip.Addr {
	if nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr.Unmap()
}

var (
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
	globalUnicast = netip.MustParsePrefix("2000::/3")
)

// specialNetworks lists the IANA special-purpose registries for IPv4 and IPv6, but for what they call
// globally reachable, and what is public by its number and local by its use.
var specialNetworks = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier's shared address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud platform's own address"}, // Azure's host node
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},             // 169.254.169.254: metadata
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a reserved address"}, // 6to4 relays, deprecated
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"}, // 255.255.255.255 is the broadcast

	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/96"), "a reserved address"}, // IPv4-compatible, deprecated
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translated address"},
	{netip.MustParsePrefix("100::/64"), "a discard-only address"},
	{netip.MustParsePrefix("2001::/23"), "a reserved address"}, // Teredo, benchmarking, ORCHID
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address"},
	{netip.MustParsePrefix("2002::/16"), "a translated address"}, // 6to4
	{netip.MustParsePrefix("3fff::/20"), "a documentation address"},
	{netip.MustParsePrefix("5f00::/16"), "a segment-routing address"},
	{netip.MustParsePrefix("fc00::/7"), "a private address"}, // fd00:ec2::254: metadata
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a private address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}
