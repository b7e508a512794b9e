//! Sizes, offsets and numbers of libibverbs and librdmacm on 64-bit Linux. Made by `layout.sh`; do not edit.

#![allow(missing_docs, dead_code)]

/// `struct ibv_device`.
pub const IBV_DEVICE_SIZE: usize = 664;
pub const IBV_DEVICE_NODE_TYPE: usize = 16;
pub const IBV_DEVICE_TRANSPORT_TYPE: usize = 20;
pub const IBV_DEVICE_NAME: usize = 24;
/// `struct ibv_context`.
pub const IBV_CONTEXT_SIZE: usize = 328;
pub const IBV_CONTEXT_DEVICE: usize = 0;
pub const IBV_CONTEXT_OPS: usize = 8;
pub const IBV_CONTEXT_CMD_FD: usize = 264;
pub const IBV_CONTEXT_ASYNC_FD: usize = 268;
pub const IBV_CONTEXT_NUM_COMP_VECTORS: usize = 272;
/// `struct ibv_context_ops`.
pub const IBV_CONTEXT_OPS_SIZE: usize = 256;
pub const IBV_CONTEXT_OPS_POLL_CQ: usize = 88;
pub const IBV_CONTEXT_OPS_REQ_NOTIFY_CQ: usize = 96;
pub const IBV_CONTEXT_OPS_POST_SEND: usize = 200;
pub const IBV_CONTEXT_OPS_POST_RECV: usize = 208;
/// `struct ibv_comp_channel`.
pub const IBV_COMP_CHANNEL_SIZE: usize = 16;
pub const IBV_COMP_CHANNEL_CONTEXT: usize = 0;
pub const IBV_COMP_CHANNEL_FD: usize = 8;
pub const IBV_COMP_CHANNEL_REFCNT: usize = 12;
/// `struct ibv_cq`.
pub const IBV_CQ_SIZE: usize = 128;
pub const IBV_CQ_CONTEXT: usize = 0;
pub const IBV_CQ_CHANNEL: usize = 8;
/// `struct ibv_qp`.
pub const IBV_QP_SIZE: usize = 160;
pub const IBV_QP_CONTEXT: usize = 0;
pub const IBV_QP_QP_NUM: usize = 52;
/// `struct ibv_mr`.
pub const IBV_MR_SIZE: usize = 48;
pub const IBV_MR_LKEY: usize = 36;
pub const IBV_MR_RKEY: usize = 40;
/// `struct ibv_sge`.
pub const IBV_SGE_SIZE: usize = 16;
pub const IBV_SGE_ADDR: usize = 0;
pub const IBV_SGE_LENGTH: usize = 8;
pub const IBV_SGE_LKEY: usize = 12;
/// `struct ibv_send_wr`.
pub const IBV_SEND_WR_SIZE: usize = 128;
pub const IBV_SEND_WR_WR_ID: usize = 0;
pub const IBV_SEND_WR_NEXT: usize = 8;
pub const IBV_SEND_WR_SG_LIST: usize = 16;
pub const IBV_SEND_WR_NUM_SGE: usize = 24;
pub const IBV_SEND_WR_OPCODE: usize = 28;
pub const IBV_SEND_WR_SEND_FLAGS: usize = 32;
pub const IBV_SEND_WR_IMM_DATA: usize = 36;
pub const IBV_SEND_WR_WR_RDMA_REMOTE_ADDR: usize = 40;
pub const IBV_SEND_WR_WR_RDMA_RKEY: usize = 48;
/// `struct ibv_recv_wr`.
pub const IBV_RECV_WR_SIZE: usize = 32;
pub const IBV_RECV_WR_WR_ID: usize = 0;
pub const IBV_RECV_WR_NEXT: usize = 8;
pub const IBV_RECV_WR_SG_LIST: usize = 16;
pub const IBV_RECV_WR_NUM_SGE: usize = 24;
/// `struct ibv_wc`.
pub const IBV_WC_SIZE: usize = 48;
pub const IBV_WC_WR_ID: usize = 0;
pub const IBV_WC_STATUS: usize = 8;
pub const IBV_WC_OPCODE: usize = 12;
pub const IBV_WC_VENDOR_ERR: usize = 16;
pub const IBV_WC_BYTE_LEN: usize = 20;
pub const IBV_WC_IMM_DATA: usize = 24;
pub const IBV_WC_QP_NUM: usize = 28;
pub const IBV_WC_WC_FLAGS: usize = 36;
/// `struct ibv_qp_cap`.
pub const IBV_QP_CAP_SIZE: usize = 20;
pub const IBV_QP_CAP_MAX_SEND_WR: usize = 0;
pub const IBV_QP_CAP_MAX_RECV_WR: usize = 4;
pub const IBV_QP_CAP_MAX_SEND_SGE: usize = 8;
pub const IBV_QP_CAP_MAX_RECV_SGE: usize = 12;
pub const IBV_QP_CAP_MAX_INLINE_DATA: usize = 16;
/// `struct ibv_qp_init_attr`.
pub const IBV_QP_INIT_ATTR_SIZE: usize = 64;
pub const IBV_QP_INIT_ATTR_QP_CONTEXT: usize = 0;
pub const IBV_QP_INIT_ATTR_SEND_CQ: usize = 8;
pub const IBV_QP_INIT_ATTR_RECV_CQ: usize = 16;
pub const IBV_QP_INIT_ATTR_SRQ: usize = 24;
pub const IBV_QP_INIT_ATTR_CAP: usize = 32;
pub const IBV_QP_INIT_ATTR_QP_TYPE: usize = 52;
pub const IBV_QP_INIT_ATTR_SQ_SIG_ALL: usize = 56;
/// `struct ibv_device_attr`.
pub const IBV_DEVICE_ATTR_SIZE: usize = 232;
pub const IBV_DEVICE_ATTR_FW_VER: usize = 0;
pub const IBV_DEVICE_ATTR_MAX_MR_SIZE: usize = 80;
pub const IBV_DEVICE_ATTR_MAX_QP: usize = 108;
pub const IBV_DEVICE_ATTR_MAX_QP_WR: usize = 112;
pub const IBV_DEVICE_ATTR_MAX_SGE: usize = 120;
pub const IBV_DEVICE_ATTR_MAX_CQ: usize = 128;
pub const IBV_DEVICE_ATTR_MAX_CQE: usize = 132;
pub const IBV_DEVICE_ATTR_MAX_MR: usize = 136;
pub const IBV_DEVICE_ATTR_MAX_PD: usize = 140;
pub const IBV_DEVICE_ATTR_PHYS_PORT_CNT: usize = 227;
/// `struct ibv_port_attr`.
pub const IBV_PORT_ATTR_SIZE: usize = 52;
pub const IBV_PORT_ATTR_STATE: usize = 0;
pub const IBV_PORT_ATTR_ACTIVE_MTU: usize = 8;
pub const IBV_PORT_ATTR_MAX_MSG_SZ: usize = 20;
pub const IBV_PORT_ATTR_LINK_LAYER: usize = 46;
pub const IBV_PORT_ATTR_PHYS_STATE: usize = 45;
/// `struct rdma_event_channel`.
pub const RDMA_EVENT_CHANNEL_SIZE: usize = 4;
pub const RDMA_EVENT_CHANNEL_FD: usize = 0;
/// `struct rdma_cm_id`.
pub const RDMA_CM_ID_SIZE: usize = 416;
pub const RDMA_CM_ID_VERBS: usize = 0;
pub const RDMA_CM_ID_CHANNEL: usize = 8;
pub const RDMA_CM_ID_CONTEXT: usize = 16;
pub const RDMA_CM_ID_QP: usize = 24;
pub const RDMA_CM_ID_ROUTE: usize = 32;
pub const RDMA_CM_ID_ROUTE_ADDR_SRC_ADDR: usize = 32;
pub const RDMA_CM_ID_ROUTE_ADDR_DST_ADDR: usize = 160;
pub const RDMA_CM_ID_PS: usize = 344;
pub const RDMA_CM_ID_PORT_NUM: usize = 348;
pub const RDMA_CM_ID_PD: usize = 400;
/// `struct rdma_conn_param`.
pub const RDMA_CONN_PARAM_SIZE: usize = 24;
pub const RDMA_CONN_PARAM_PRIVATE_DATA: usize = 0;
pub const RDMA_CONN_PARAM_PRIVATE_DATA_LEN: usize = 8;
pub const RDMA_CONN_PARAM_RESPONDER_RESOURCES: usize = 9;
pub const RDMA_CONN_PARAM_INITIATOR_DEPTH: usize = 10;
pub const RDMA_CONN_PARAM_FLOW_CONTROL: usize = 11;
pub const RDMA_CONN_PARAM_RETRY_COUNT: usize = 12;
pub const RDMA_CONN_PARAM_RNR_RETRY_COUNT: usize = 13;
pub const RDMA_CONN_PARAM_SRQ: usize = 14;
pub const RDMA_CONN_PARAM_QP_NUM: usize = 16;
/// `struct rdma_cm_event`.
pub const RDMA_CM_EVENT_SIZE: usize = 80;
pub const RDMA_CM_EVENT_ID: usize = 0;
pub const RDMA_CM_EVENT_LISTEN_ID: usize = 8;
pub const RDMA_CM_EVENT_EVENT: usize = 16;
pub const RDMA_CM_EVENT_STATUS: usize = 20;
pub const RDMA_CM_EVENT_PARAM_CONN: usize = 24;

pub const IBV_ACCESS_LOCAL_WRITE: u32 = 1;
pub const IBV_ACCESS_REMOTE_WRITE: u32 = 2;
pub const IBV_QPT_RC: u32 = 2;
pub const IBV_WR_RDMA_WRITE: u32 = 0;
pub const IBV_WR_RDMA_WRITE_WITH_IMM: u32 = 1;
pub const IBV_WR_SEND: u32 = 2;
pub const IBV_SEND_SIGNALED: u32 = 2;
pub const IBV_SEND_INLINE: u32 = 8;
pub const IBV_WC_SUCCESS: u32 = 0;
pub const IBV_WC_WR_FLUSH_ERR: u32 = 5;
pub const IBV_WC_RECV: u32 = 128;
pub const IBV_WC_RECV_RDMA_WITH_IMM: u32 = 129;
pub const IBV_TRANSPORT_IB: u32 = 0;
pub const IBV_TRANSPORT_IWARP: u32 = 1;
pub const IBV_PORT_ACTIVE: u32 = 4;
pub const IBV_FORK_UNNEEDED: u32 = 2;
pub const IBV_LINK_LAYER_INFINIBAND: u32 = 1;
pub const IBV_LINK_LAYER_ETHERNET: u32 = 2;
pub const RDMA_PS_TCP: u32 = 262;
pub const RDMA_OPTION_ID: u32 = 0;
pub const RDMA_OPTION_ID_ACK_TIMEOUT: u32 = 3;
pub const RDMA_OPTION_ID_AFONLY: u32 = 2;
pub const RDMA_CM_EVENT_ADDR_RESOLVED: u32 = 0;
pub const RDMA_CM_EVENT_ADDR_ERROR: u32 = 1;
pub const RDMA_CM_EVENT_ROUTE_RESOLVED: u32 = 2;
pub const RDMA_CM_EVENT_ROUTE_ERROR: u32 = 3;
pub const RDMA_CM_EVENT_CONNECT_REQUEST: u32 = 4;
pub const RDMA_CM_EVENT_CONNECT_ERROR: u32 = 6;
pub const RDMA_CM_EVENT_UNREACHABLE: u32 = 7;
pub const RDMA_CM_EVENT_REJECTED: u32 = 8;
pub const RDMA_CM_EVENT_ESTABLISHED: u32 = 9;
pub const RDMA_CM_EVENT_DISCONNECTED: u32 = 10;
pub const RDMA_CM_EVENT_DEVICE_REMOVAL: u32 = 11;
pub const RDMA_CM_EVENT_ADDR_CHANGE: u32 = 14;
pub const RDMA_CM_EVENT_TIMEWAIT_EXIT: u32 = 15;
