//! The addresses of this machine, and which RDMA device each belongs to.

use crate::failure::{Doing, Failure, Outcome};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::null_mut;
use vianet::via::rdma;

/// The first address of RDMA device `name`.
pub fn of_device(name: &str) -> Outcome<IpAddr> {
    let all = with_devices().map_err(Failure::failed)?;
    let here = all.iter().find(|(_, device)| device == name);
    here.map(|(address, _)| *address).ok_or_else(|| {
        Failure::refused(format!(
            "no address belongs to RDMA device {name}: `vianet doctor --rdma`"
        ))
    })
}

/// The addresses that belong to an RDMA device, with its name, IPv4 first.
pub fn with_devices() -> Result<Vec<(IpAddr, String)>, String> {
    let mut found = Vec::new();
    for address in all().map_err(|e| e.to_string())? {
        if let Some(device) = rdma::device_of(address)? {
            found.push((address, device));
        }
    }
    found.sort_by_key(|(address, _)| address.is_ipv6());
    Ok(found)
}

/// Every address of every interface; link-local ones, which need a scope, are left out.
fn all() -> Outcome<Vec<IpAddr>> {
    let mut list = null_mut();
    // SAFETY: `list` takes the list.
    let failed = unsafe { libc::getifaddrs(&mut list) };
    if failed != 0 {
        return Err(io::Error::last_os_error()).doing(|| "listing the addresses of this machine");
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: null, or an element of the list, which is not freed yet.
    while let Some(element) = unsafe { next.as_ref() } {
        // SAFETY: the element's address.
        found.extend(unsafe { decode(element.ifa_addr) });
        next = element.ifa_next;
    }
    // SAFETY: the list of above, once; nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    found.dedup();
    Ok(found)
}

/// # Safety
/// Null, or an address of the size that its family says.
unsafe fn decode(raw: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise; the family is in every kind of address.
    let family = libc::c_int::from(unsafe { raw.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the caller's promise for this family.
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the caller's promise for this family.
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            (!ip.is_unicast_link_local()).then_some(ip.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_address_is_listed() {
        let all = super::all().unwrap();
        assert!(all.iter().any(|ip| ip.is_loopback()), "{all:?}");
    }
}
