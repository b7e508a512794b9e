//! What RDMA devices there are, for reports.

use super::layout;
use super::load::library;
use super::sys::{ibv_context, ibv_device, ibv_device_attr, ibv_port_attr};
use std::ffi::{CStr, c_int};
use std::io;

/// An RDMA device.
#[derive(Clone, Debug)]
pub struct Device {
    /// The kernel's name.
    pub name: String,
    /// It is an iWARP device: no immediates.
    pub iwarp: bool,
    /// Its firmware's version; may be empty.
    pub firmware: String,
    /// Most queue pairs, completion queues, regions and protection domains: a channel takes 1, 1, 3 and 1.
    pub limits: Limits,
    /// Its ports, the first one first.
    pub ports: Vec<Port>,
}

/// What a device has of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Queue pairs.
    pub queue_pairs: u32,
    /// Completion queues.
    pub completion_queues: u32,
    /// Memory regions.
    pub regions: u32,
    /// Protection domains.
    pub domains: u32,
    /// Work requests of a queue.
    pub queue_depth: u32,
}

/// A port of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// From 1 on.
    pub number: u8,
    /// Whether it can carry anything.
    pub active: bool,
    /// `IBV_PORT_*`.
    pub state: u32,
    /// `Some(true)`: Ethernet; `Some(false)`: InfiniBand.
    pub ethernet: Option<bool>,
    /// Bytes of its largest packet.
    pub mtu: u32,
}

impl Port {
    /// Its state in a word.
    pub fn state(&self) -> &'static str {
        match self.state {
            1 => "down",
            2 => "initialising",
            3 => "armed",
            4 => "active",
            5 => "active, deferred",
            _ => "unknown",
        }
    }
}

/// A device's name, and what it is, or why it cannot be opened.
pub type Found = (String, Result<Device, String>);

/// All devices.
///
/// # Errors
/// Why there can be none: no library, no permission.
pub fn devices() -> Result<Vec<Found>, String> {
    let library = library()?;
    let mut count: c_int = 0;
    // SAFETY: `count` takes the number; null is an error in errno.
    let list = unsafe { (library.verbs.ibv_get_device_list)(&mut count) };
    if list.is_null() {
        return Err(format!("device list: {}", io::Error::last_os_error()));
    }
    let mut found = Vec::new();
    for n in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the list has so many entries, each a device until it is freed.
        let device = unsafe { *list.add(n) };
        // SAFETY: a NUL-terminated array of the device's.
        let name = unsafe { CStr::from_ptr((*device).name.as_ptr()) };
        let name = name.to_string_lossy().into_owned();
        let told = describe(device, &name);
        found.push((name, told));
    }
    // SAFETY: the list of above, once; nothing of it is used any more.
    unsafe { (library.verbs.ibv_free_device_list)(list) };
    Ok(found)
}

fn describe(device: *mut ibv_device, name: &str) -> Result<Device, String> {
    let library = library()?;
    // SAFETY: a device of the list. Null is an error in errno.
    let context = unsafe { (library.verbs.ibv_open_device)(device) };
    if context.is_null() {
        return Err(io::Error::last_os_error().to_string());
    }
    let told = query(context).map(|(attr, ports)| Device {
        name: name.to_owned(),
        // SAFETY: as above.
        iwarp: unsafe { (*device).transport_type } == layout::IBV_TRANSPORT_IWARP as c_int,
        // SAFETY: the device's answer, NUL-terminated.
        firmware: unsafe { CStr::from_ptr(attr.fw_ver.as_ptr()) }
            .to_string_lossy()
            .into_owned(),
        limits: Limits {
            queue_pairs: number(attr.max_qp),
            completion_queues: number(attr.max_cq),
            regions: number(attr.max_mr),
            domains: number(attr.max_pd),
            queue_depth: number(attr.max_qp_wr),
        },
        ports,
    });
    // SAFETY: the context of above, once.
    unsafe { (library.verbs.ibv_close_device)(context) };
    told
}

fn query(context: *mut ibv_context) -> Result<(ibv_device_attr, Vec<Port>), String> {
    let library = library()?;
    // SAFETY: plain numbers, of which zero is a value.
    let mut attr = unsafe { std::mem::zeroed::<ibv_device_attr>() };
    // SAFETY: an open context, and a struct of the size that this version of the function fills.
    let error = unsafe { (library.verbs.ibv_query_device)(context, &mut attr) };
    if error != 0 {
        return Err(format!("device: {}", io::Error::from_raw_os_error(error)));
    }
    // The function's text must end inside, whatever the driver wrote.
    attr.fw_ver[63] = 0;
    let mut ports = Vec::new();
    for number in 1..=attr.phys_port_cnt {
        let mut port = ibv_port_attr::default();
        // SAFETY: as above; the function fills a part of the struct, as the header's inline one has it do.
        let error = unsafe { (library.verbs.ibv_query_port)(context, number, &mut port) };
        if error != 0 {
            let why = io::Error::from_raw_os_error(error);
            return Err(format!("port {number}: {why}"));
        }
        ports.push(Port {
            number,
            active: port.state as u32 == layout::IBV_PORT_ACTIVE,
            state: port.state as u32,
            ethernet: match u32::from(port.link_layer) {
                layout::IBV_LINK_LAYER_ETHERNET => Some(true),
                layout::IBV_LINK_LAYER_INFINIBAND => Some(false),
                _ => None,
            },
            // `enum ibv_mtu`: 1 is 256.
            mtu: 128 << (port.active_mtu as u32).min(5),
        });
    }
    Ok((attr, ports))
}

fn number(n: c_int) -> u32 {
    n.max(0) as u32
}
