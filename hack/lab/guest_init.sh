#!/bin/busybox sh
# The guest's init: brings up the interfaces as the kernel command line says, serves TCP echo on port 7 and a shell on port 8
# (nobody but the lab's own networks can reach it), says so on the serial console, and powers off when the power button is
# pressed (QMP system_powerdown).
#
#   net0=10.16.0.5/16,fd00::5/64   addresses of eth0, set as they are
#   net0=dhcp,dhcp6                addresses from DHCPv4 and DHCPv6 (router advertisements are heard in any case)
#   net0=none                      link up, nothing else
#   gw0=10.16.0.1,fd00::1          default gateways of eth0
# and net1=, gw1= and so on for the interfaces after it.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /tmp /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done

value() { # the value of a key of the kernel command line
    tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"
}

dhcp6() { # DHCPv6 on an interface, once it has the link-local address from which to ask
    until ip -6 addr show dev "$1" scope link | grep -q fe80; do usleep 50000; done
    dhclient -6 -1 -nw -cf /dev/null -lf "/tmp/$1.lease" -pf "/tmp/$1.pid" -sf /dhcp6 "$1"
}

for button in /dev/input/event*; do
    { dd if="$button" of=/dev/null bs=24 count=1 2>/dev/null; poweroff -f; } &
done
hostname "$(value hostname)"
ip link set lo up
for path in /sys/class/net/eth*; do
    interface=${path##*/}
    index=${interface#eth}
    echo 0 >"/proc/sys/net/ipv6/conf/$interface/accept_dad"
    ip link set "$interface" up
    for address in $(value "net$index" | tr ',' ' '); do
        case $address in
            none) ;;
            dhcp6) dhcp6 "$interface" & ;;
            dhcp) udhcpc -i "$interface" -x "hostname:$(hostname)" -s /dhcp -t 10 -T 1 -b ;;
            *:*) ip addr add "$address" dev "$interface" ;;
            *)
                ip addr add "$address" dev "$interface"
                # As guests do (RFC 5227, 2.3): neighbours may remember the MAC of the launcher before this one.
                arping -q -U -c 3 -I "$interface" "${address%/*}" &
                ;;
        esac
    done
    for gateway in $(value "gw$index" | tr ',' ' '); do
        ip route add default via "$gateway" dev "$interface"
    done
done
nc -ll -p 7 -e /bin/cat &
nc -ll -p 8 -e /bin/sh &
ip addr
echo "guest ready"
wait
