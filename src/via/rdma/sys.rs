//! What we use of libibverbs and librdmacm, as their headers declare it: structs of which only the fields up to the last
//! one that we touch are named, each asserted against [`super::layout`].
//!
//! `ibv_post_send`, `ibv_post_recv`, `ibv_poll_cq` and `ibv_req_notify_cq` are inline functions of the header: they go
//! through the table of operations in the context, and so do we ([`super::verbs`]).

#![allow(missing_docs, non_camel_case_types)]

use super::layout;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::{offset_of, size_of};

macro_rules! assert_layout {
    ($type:ident, $size:ident; $($($field:ident).+ = $offset:ident),* $(,)?) => {
        const _: () = assert!(size_of::<$type>() == layout::$size);
        assert_layout!($type; $($($field).+ = $offset),*);
    };
    ($type:ident; $($($field:ident).+ = $offset:ident),* $(,)?) => {
        $(const _: () = assert!(offset_of!($type, $($field).+) == layout::$offset);)*
    };
}

/// Owned by the library; only its beginning.
#[repr(C)]
pub struct ibv_device {
    _ops: [*mut c_void; 2],
    pub node_type: c_int,
    pub transport_type: c_int,
    pub name: [c_char; 64],
}
assert_layout!(ibv_device;
    node_type = IBV_DEVICE_NODE_TYPE, transport_type = IBV_DEVICE_TRANSPORT_TYPE, name = IBV_DEVICE_NAME);

#[repr(C)]
pub struct ibv_context_ops {
    _before: [*mut c_void; 11],
    pub poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    _between: [*mut c_void; 12],
    pub post_send:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
    pub post_recv:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
    _after: [*mut c_void; 5],
}
assert_layout!(ibv_context_ops, IBV_CONTEXT_OPS_SIZE;
    poll_cq = IBV_CONTEXT_OPS_POLL_CQ, req_notify_cq = IBV_CONTEXT_OPS_REQ_NOTIFY_CQ,
    post_send = IBV_CONTEXT_OPS_POST_SEND, post_recv = IBV_CONTEXT_OPS_POST_RECV);

/// Owned by the library; only its beginning.
#[repr(C)]
pub struct ibv_context {
    pub device: *mut ibv_device,
    pub ops: ibv_context_ops,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
}
assert_layout!(ibv_context;
    device = IBV_CONTEXT_DEVICE, ops = IBV_CONTEXT_OPS, cmd_fd = IBV_CONTEXT_CMD_FD,
    async_fd = IBV_CONTEXT_ASYNC_FD, num_comp_vectors = IBV_CONTEXT_NUM_COMP_VECTORS);

#[repr(C)]
pub struct ibv_comp_channel {
    pub context: *mut ibv_context,
    pub fd: c_int,
    refcnt: c_int,
}
assert_layout!(ibv_comp_channel, IBV_COMP_CHANNEL_SIZE;
    context = IBV_COMP_CHANNEL_CONTEXT, fd = IBV_COMP_CHANNEL_FD, refcnt = IBV_COMP_CHANNEL_REFCNT);

/// Opaque.
#[repr(C)]
pub struct ibv_pd {
    _private: [u8; 0],
}

/// Owned by the library; only its beginning.
#[repr(C)]
pub struct ibv_cq {
    pub context: *mut ibv_context,
}
assert_layout!(ibv_cq; context = IBV_CQ_CONTEXT);

/// Owned by the library; only its beginning.
#[repr(C)]
pub struct ibv_qp {
    pub context: *mut ibv_context,
    _between: [*mut c_void; 5],
    _handle: u32,
    pub qp_num: u32,
}
assert_layout!(ibv_qp; context = IBV_QP_CONTEXT, qp_num = IBV_QP_QP_NUM);

#[repr(C)]
pub struct ibv_mr {
    _before: [*mut c_void; 4],
    _handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}
assert_layout!(ibv_mr, IBV_MR_SIZE; lkey = IBV_MR_LKEY, rkey = IBV_MR_RKEY);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}
assert_layout!(ibv_sge, IBV_SGE_SIZE;
    addr = IBV_SGE_ADDR, length = IBV_SGE_LENGTH, lkey = IBV_SGE_LKEY);

#[repr(C)]
pub struct ibv_send_wr {
    pub wr_id: u64,
    pub next: *mut ibv_send_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
    pub opcode: c_int,
    pub send_flags: c_uint,
    /// Big endian.
    pub imm_data: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    _rest: [u64; 9],
}
assert_layout!(ibv_send_wr, IBV_SEND_WR_SIZE;
    wr_id = IBV_SEND_WR_WR_ID, next = IBV_SEND_WR_NEXT, sg_list = IBV_SEND_WR_SG_LIST,
    num_sge = IBV_SEND_WR_NUM_SGE, opcode = IBV_SEND_WR_OPCODE, send_flags = IBV_SEND_WR_SEND_FLAGS,
    imm_data = IBV_SEND_WR_IMM_DATA, remote_addr = IBV_SEND_WR_WR_RDMA_REMOTE_ADDR,
    rkey = IBV_SEND_WR_WR_RDMA_RKEY);

impl Default for ibv_send_wr {
    fn default() -> Self {
        Self {
            wr_id: 0,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
            opcode: 0,
            send_flags: 0,
            imm_data: 0,
            remote_addr: 0,
            rkey: 0,
            _rest: [0; 9],
        }
    }
}

#[repr(C)]
pub struct ibv_recv_wr {
    pub wr_id: u64,
    pub next: *mut ibv_recv_wr,
    pub sg_list: *mut ibv_sge,
    pub num_sge: c_int,
}
assert_layout!(ibv_recv_wr, IBV_RECV_WR_SIZE;
    wr_id = IBV_RECV_WR_WR_ID, next = IBV_RECV_WR_NEXT, sg_list = IBV_RECV_WR_SG_LIST,
    num_sge = IBV_RECV_WR_NUM_SGE);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_wc {
    pub wr_id: u64,
    pub status: c_int,
    pub opcode: c_int,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// Big endian.
    pub imm_data: u32,
    pub qp_num: u32,
    _src_qp: u32,
    pub wc_flags: c_uint,
    _rest: [u16; 4],
}
assert_layout!(ibv_wc, IBV_WC_SIZE;
    wr_id = IBV_WC_WR_ID, status = IBV_WC_STATUS, opcode = IBV_WC_OPCODE, vendor_err = IBV_WC_VENDOR_ERR,
    byte_len = IBV_WC_BYTE_LEN, imm_data = IBV_WC_IMM_DATA, qp_num = IBV_WC_QP_NUM,
    wc_flags = IBV_WC_WC_FLAGS);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_qp_cap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}
assert_layout!(ibv_qp_cap, IBV_QP_CAP_SIZE;
    max_send_wr = IBV_QP_CAP_MAX_SEND_WR, max_recv_wr = IBV_QP_CAP_MAX_RECV_WR,
    max_send_sge = IBV_QP_CAP_MAX_SEND_SGE, max_recv_sge = IBV_QP_CAP_MAX_RECV_SGE,
    max_inline_data = IBV_QP_CAP_MAX_INLINE_DATA);

#[repr(C)]
pub struct ibv_qp_init_attr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut ibv_cq,
    pub recv_cq: *mut ibv_cq,
    pub srq: *mut c_void,
    pub cap: ibv_qp_cap,
    pub qp_type: c_int,
    pub sq_sig_all: c_int,
}
assert_layout!(ibv_qp_init_attr, IBV_QP_INIT_ATTR_SIZE;
    qp_context = IBV_QP_INIT_ATTR_QP_CONTEXT, send_cq = IBV_QP_INIT_ATTR_SEND_CQ,
    recv_cq = IBV_QP_INIT_ATTR_RECV_CQ, srq = IBV_QP_INIT_ATTR_SRQ, cap = IBV_QP_INIT_ATTR_CAP,
    qp_type = IBV_QP_INIT_ATTR_QP_TYPE, sq_sig_all = IBV_QP_INIT_ATTR_SQ_SIG_ALL);

#[repr(C)]
pub struct ibv_device_attr {
    pub fw_ver: [c_char; 64],
    _guids: [u64; 2],
    pub max_mr_size: u64,
    _page_size_cap: u64,
    _ids: [u32; 3],
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    _device_cap_flags: c_uint,
    pub max_sge: c_int,
    _max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    _between: [c_int; 20],
    _max_pkeys: u16,
    _local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}
assert_layout!(ibv_device_attr, IBV_DEVICE_ATTR_SIZE;
    fw_ver = IBV_DEVICE_ATTR_FW_VER, max_mr_size = IBV_DEVICE_ATTR_MAX_MR_SIZE,
    max_qp = IBV_DEVICE_ATTR_MAX_QP, max_qp_wr = IBV_DEVICE_ATTR_MAX_QP_WR, max_sge = IBV_DEVICE_ATTR_MAX_SGE,
    max_cq = IBV_DEVICE_ATTR_MAX_CQ, max_cqe = IBV_DEVICE_ATTR_MAX_CQE, max_mr = IBV_DEVICE_ATTR_MAX_MR,
    max_pd = IBV_DEVICE_ATTR_MAX_PD, phys_port_cnt = IBV_DEVICE_ATTR_PHYS_PORT_CNT);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ibv_port_attr {
    pub state: c_int,
    _max_mtu: c_int,
    pub active_mtu: c_int,
    _gid_tbl_len: c_int,
    _port_cap_flags: u32,
    pub max_msg_sz: u32,
    _counters: [u32; 2],
    _ids: [u16; 3],
    _bytes: [u8; 7],
    pub phys_state: u8,
    pub link_layer: u8,
    _flags: u8,
    _port_cap_flags2: u16,
}
assert_layout!(ibv_port_attr, IBV_PORT_ATTR_SIZE;
    state = IBV_PORT_ATTR_STATE, active_mtu = IBV_PORT_ATTR_ACTIVE_MTU, max_msg_sz = IBV_PORT_ATTR_MAX_MSG_SZ,
    phys_state = IBV_PORT_ATTR_PHYS_STATE, link_layer = IBV_PORT_ATTR_LINK_LAYER);

#[repr(C)]
pub struct rdma_event_channel {
    pub fd: c_int,
}
assert_layout!(rdma_event_channel, RDMA_EVENT_CHANNEL_SIZE; fd = RDMA_EVENT_CHANNEL_FD);

/// `struct sockaddr_storage`, as bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct sockaddr(pub [u8; 128]);

/// Owned by the library; only its beginning.
#[repr(C)]
pub struct rdma_cm_id {
    pub verbs: *mut ibv_context,
    pub channel: *mut rdma_event_channel,
    pub context: *mut c_void,
    pub qp: *mut ibv_qp,
    pub src_addr: sockaddr,
    pub dst_addr: sockaddr,
}
assert_layout!(rdma_cm_id;
    verbs = RDMA_CM_ID_VERBS, channel = RDMA_CM_ID_CHANNEL, context = RDMA_CM_ID_CONTEXT, qp = RDMA_CM_ID_QP,
    src_addr = RDMA_CM_ID_ROUTE_ADDR_SRC_ADDR, dst_addr = RDMA_CM_ID_ROUTE_ADDR_DST_ADDR);

#[repr(C)]
pub struct rdma_conn_param {
    pub private_data: *const c_void,
    pub private_data_len: u8,
    pub responder_resources: u8,
    pub initiator_depth: u8,
    pub flow_control: u8,
    pub retry_count: u8,
    pub rnr_retry_count: u8,
    pub srq: u8,
    pub qp_num: u32,
}
assert_layout!(rdma_conn_param, RDMA_CONN_PARAM_SIZE;
    private_data = RDMA_CONN_PARAM_PRIVATE_DATA, private_data_len = RDMA_CONN_PARAM_PRIVATE_DATA_LEN,
    responder_resources = RDMA_CONN_PARAM_RESPONDER_RESOURCES,
    initiator_depth = RDMA_CONN_PARAM_INITIATOR_DEPTH, flow_control = RDMA_CONN_PARAM_FLOW_CONTROL,
    retry_count = RDMA_CONN_PARAM_RETRY_COUNT, rnr_retry_count = RDMA_CONN_PARAM_RNR_RETRY_COUNT,
    srq = RDMA_CONN_PARAM_SRQ, qp_num = RDMA_CONN_PARAM_QP_NUM);

/// Owned by the library until acknowledged.
#[repr(C)]
pub struct rdma_cm_event {
    pub id: *mut rdma_cm_id,
    pub listen_id: *mut rdma_cm_id,
    pub event: c_int,
    pub status: c_int,
    pub conn: rdma_conn_param,
    _ud: [u64; 4],
}
assert_layout!(rdma_cm_event, RDMA_CM_EVENT_SIZE;
    id = RDMA_CM_EVENT_ID, listen_id = RDMA_CM_EVENT_LISTEN_ID, event = RDMA_CM_EVENT_EVENT,
    status = RDMA_CM_EVENT_STATUS, conn = RDMA_CM_EVENT_PARAM_CONN);

/// One table of functions per library: each with the version of the interface that these structs are of.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident; $($name:ident @ $version:literal : fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl $table {
            /// Fills the table; the error is the first symbol, with its version, that `find` has not.
            ///
            /// # Safety
            /// `find` gives the function of that name and version, or null.
            pub unsafe fn load(
                find: impl Fn(&std::ffi::CStr, &std::ffi::CStr) -> *mut c_void,
            ) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let version = concat!($version, "\0");
                        let find = |name: &'static str, version: &'static str| {
                            // Both end with the one NUL that was put there.
                            let c = |s: &'static str| std::ffi::CStr::from_bytes_with_nul(s.as_bytes()).ok();
                            c(name).zip(c(version)).map(|(n, v)| find(n, v))
                        };
                        match find(name, version) {
                            Some(address) if !address.is_null() => {
                                // SAFETY: the caller's promise; the type is the header's for this version.
                                unsafe { std::mem::transmute::<
                                    *mut c_void,
                                    unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                                >(address) }
                            }
                            _ => return Err(format!("no {} of version {}", stringify!($name), $version)),
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    /// Of libibverbs.so.1.
    Verbs;
    ibv_get_device_list @ "IBVERBS_1.1": fn(*mut c_int) -> *mut *mut ibv_device;
    ibv_free_device_list @ "IBVERBS_1.1": fn(*mut *mut ibv_device);
    ibv_open_device @ "IBVERBS_1.1": fn(*mut ibv_device) -> *mut ibv_context;
    ibv_close_device @ "IBVERBS_1.1": fn(*mut ibv_context) -> c_int;
    ibv_query_device @ "IBVERBS_1.1": fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
    ibv_query_port @ "IBVERBS_1.1": fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
    ibv_alloc_pd @ "IBVERBS_1.1": fn(*mut ibv_context) -> *mut ibv_pd;
    ibv_dealloc_pd @ "IBVERBS_1.1": fn(*mut ibv_pd) -> c_int;
    ibv_reg_mr @ "IBVERBS_1.1": fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    ibv_dereg_mr @ "IBVERBS_1.1": fn(*mut ibv_mr) -> c_int;
    ibv_create_comp_channel @ "IBVERBS_1.0": fn(*mut ibv_context) -> *mut ibv_comp_channel;
    ibv_destroy_comp_channel @ "IBVERBS_1.0": fn(*mut ibv_comp_channel) -> c_int;
    ibv_create_cq @ "IBVERBS_1.1":
        fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    ibv_destroy_cq @ "IBVERBS_1.1": fn(*mut ibv_cq) -> c_int;
    ibv_get_cq_event @ "IBVERBS_1.1":
        fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events @ "IBVERBS_1.1": fn(*mut ibv_cq, c_uint);
    ibv_wc_status_str @ "IBVERBS_1.1": fn(c_int) -> *const c_char;
}

functions! {
    /// Of librdmacm.so.1.
    Cm;
    rdma_create_event_channel @ "RDMACM_1.0": fn() -> *mut rdma_event_channel;
    rdma_destroy_event_channel @ "RDMACM_1.0": fn(*mut rdma_event_channel);
    rdma_create_id @ "RDMACM_1.0":
        fn(*mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, c_int) -> c_int;
    rdma_destroy_id @ "RDMACM_1.0": fn(*mut rdma_cm_id) -> c_int;
    rdma_migrate_id @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut rdma_event_channel) -> c_int;
    rdma_bind_addr @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut sockaddr) -> c_int;
    rdma_listen @ "RDMACM_1.0": fn(*mut rdma_cm_id, c_int) -> c_int;
    rdma_resolve_addr @ "RDMACM_1.0":
        fn(*mut rdma_cm_id, *mut sockaddr, *mut sockaddr, c_int) -> c_int;
    rdma_resolve_route @ "RDMACM_1.0": fn(*mut rdma_cm_id, c_int) -> c_int;
    rdma_create_qp @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut ibv_pd, *mut ibv_qp_init_attr) -> c_int;
    rdma_destroy_qp @ "RDMACM_1.0": fn(*mut rdma_cm_id);
    rdma_connect @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
    rdma_accept @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
    rdma_reject @ "RDMACM_1.0": fn(*mut rdma_cm_id, *const c_void, u8) -> c_int;
    rdma_disconnect @ "RDMACM_1.0": fn(*mut rdma_cm_id) -> c_int;
    rdma_get_cm_event @ "RDMACM_1.0": fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
    rdma_ack_cm_event @ "RDMACM_1.0": fn(*mut rdma_cm_event) -> c_int;
    rdma_event_str @ "RDMACM_1.0": fn(c_int) -> *const c_char;
    rdma_set_option @ "RDMACM_1.0": fn(*mut rdma_cm_id, c_int, c_int, *mut c_void, usize) -> c_int;
}
