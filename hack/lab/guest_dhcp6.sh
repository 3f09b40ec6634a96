#!/bin/busybox sh
# dhclient's script in the guest, for DHCPv6: $reason is the event, the lease is in variables. The default route comes by
# router advertisement, and the kernel sets it.
case $reason in
    PREINIT6) ip link set "$interface" up ;;
    BOUND6 | RENEW6 | REBIND6)
        ip -6 addr replace "$new_ip6_address/$new_ip6_prefixlen" dev "$interface"
        for server in $new_dhcp6_name_servers; do echo "nameserver $server" >>/etc/resolv.conf; done
        echo "dhcp6 $reason interface=$interface ip=$new_ip6_address dns=$new_dhcp6_name_servers" >/dev/console
        ;;
esac
