#!/bin/busybox sh
# udhcpc's script in the guest: $1 is the event, the lease is in variables.
case $1 in
    deconfig)
        ip addr flush dev "$interface" scope global
        ;;
    bound | renew)
        ip addr replace "$ip/$mask" dev "$interface"
        arping -q -U -c 2 -I "$interface" "$ip" & # neighbours may remember the MAC of the launcher before this one
        [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
        for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; done
        : >/etc/resolv.conf
        [ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf
        for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
        echo "dhcp $1 interface=$interface ip=$ip/$mask router=$router mtu=$mtu dns=$dns domain=$domain hostname=$hostname"
        ;;
esac
