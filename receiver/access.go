package receiver

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress is where a request comes from: the peer of the connection, or, where that is a trusted
// proxy, the last address in X-Forwarded-For that is none.
func clientAddress(peer net.Addr, forwarded []byte, trusted []netip.Prefix) netip.Addr {
	address := addressOf(peer)
	if len(trusted) == 0 || !contains(trusted, address) {
		return address
	}
	for _, text := range slices.Backward(strings.Split(string(forwarded), ",")) {
		hop, err := parseHop(strings.TrimSpace(text))
		if err != nil {
			return address
		}
		address = hop
		if !contains(trusted, hop) {
			return hop
		}
	}
	return address
}

// parseHop reads an address, with or without a port.
func parseHop(text string) (netip.Addr, error) {
	if p, err := netip.ParseAddrPort(text); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return a.Unmap().WithZone(""), err
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		address, _ := netip.AddrFromSlice(tcp.IP)
		return address.Unmap()
	}
	return netip.Addr{} // in memory, or a unix socket
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// ParseNetworks reads CIDRs and single addresses.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if a, err := netip.ParseAddr(text); err == nil {
			networks = append(networks, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, configError("network", "must be an address or a CIDR such as 10.0.0.0/8: "+text)
		}
		networks = append(networks, n.Masked())
	}
	return networks, nil
}
