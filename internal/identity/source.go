package identity

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// v4InV6 is how many bits of an IPv4-mapped IPv6 address come before those of
// IPv4 (RFC 4291, section 2.5.5.2).
const v4InV6 = 96

// readSource reads a network or a single address. Those of IPv4 in the clothes
// of IPv6 are those of IPv4.
func readSource(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err == nil && p.Addr().Is4In6() && p.Bits() >= v4InV6 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-v4InV6)
		}
		if err == nil && p.Masked() == p {
			return p, nil
		}
	} else if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, fmt.Errorf("%w: source %q: want a network such as 10.0.0.0/8, without host bits, or an address", ErrInvalid, s)
}

// allows reports whether a token for these sources may be used from an address.
// A text that cannot be read allows nothing.
func allows(sources []string, from netip.Addr) bool {
	if len(sources) == 0 {
		return true
	}
	from = from.Unmap()
	return from.IsValid() && slices.ContainsFunc(sources, func(s string) bool {
		p, err := readSource(s)
		return err == nil && p.Contains(from)
	})
}

// commonSources are the networks that two lists both allow: of networks that
// overlap, one lies within the other. [ErrSource] where they have none in
// common, which an empty list, "any", must not say.
func commonSources(a, b []string) ([]string, error) {
	switch {
	case len(a) == 0:
		return b, nil
	case len(b) == 0:
		return a, nil
	}
	var of [2][]netip.Prefix
	for i, list := range [2][]string{a, b} {
		for _, s := range list {
			p, err := readSource(s)
			if err != nil {
				return nil, err
			}
			of[i] = append(of[i], p)
		}
	}
	var common []string
	for _, x := range of[0] {
		for _, y := range of[1] {
			if !x.Overlaps(y) {
				continue
			}
			if y.Bits() > x.Bits() {
				common = append(common, y.String())
			} else {
				common = append(common, x.String())
			}
		}
	}
	if len(common) == 0 {
		return nil, ErrSource
	}
	slices.Sort(common)
	return slices.Compact(common), nil
}
