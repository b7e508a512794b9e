#!/usr/bin/env bash
# Makes src/via/rdma/layout.rs from the headers of libibverbs and librdmacm, against which sys.rs is asserted.
#
#   src/via/rdma/layout.sh            write layout.rs
#   src/via/rdma/layout.sh --check    compare; status 1 and the difference where it is not what the headers say
#
# Needs a C compiler and the headers: in /usr/include, or below the directory $RDMA_INCLUDE (`apt-get download
# libibverbs-dev librdmacm-dev`, `dpkg-deb -x`). Nothing else needs them: layout.rs is committed.
set -euo pipefail
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

structs=(
  "ibv_device node_type transport_type name"
  "ibv_context device ops cmd_fd async_fd num_comp_vectors"
  "ibv_context_ops poll_cq req_notify_cq post_send post_recv"
  "ibv_comp_channel context fd refcnt"
  "ibv_cq context channel"
  "ibv_qp context qp_num"
  "ibv_mr lkey rkey"
  "ibv_sge addr length lkey"
  "ibv_send_wr wr_id next sg_list num_sge opcode send_flags imm_data wr.rdma.remote_addr wr.rdma.rkey"
  "ibv_recv_wr wr_id next sg_list num_sge"
  "ibv_wc wr_id status opcode vendor_err byte_len imm_data qp_num wc_flags"
  "ibv_qp_cap max_send_wr max_recv_wr max_send_sge max_recv_sge max_inline_data"
  "ibv_qp_init_attr qp_context send_cq recv_cq srq cap qp_type sq_sig_all"
  "ibv_device_attr fw_ver max_mr_size max_qp max_qp_wr max_sge max_cq max_cqe max_mr max_pd phys_port_cnt"
  "ibv_port_attr state active_mtu max_msg_sz link_layer phys_state"
  "rdma_event_channel fd"
  "rdma_cm_id verbs channel context qp route route.addr.src_addr route.addr.dst_addr ps port_num pd"
  "rdma_conn_param private_data private_data_len responder_resources initiator_depth flow_control retry_count rnr_retry_count srq qp_num"
  "rdma_cm_event id listen_id event status param.conn"
)
constants=(
  IBV_ACCESS_LOCAL_WRITE IBV_ACCESS_REMOTE_WRITE IBV_QPT_RC
  IBV_WR_RDMA_WRITE IBV_WR_RDMA_WRITE_WITH_IMM IBV_WR_SEND
  IBV_SEND_SIGNALED IBV_SEND_INLINE
  IBV_WC_SUCCESS IBV_WC_WR_FLUSH_ERR IBV_WC_RECV IBV_WC_RECV_RDMA_WITH_IMM
  IBV_TRANSPORT_IB IBV_TRANSPORT_IWARP IBV_PORT_ACTIVE IBV_FORK_UNNEEDED
  IBV_LINK_LAYER_INFINIBAND IBV_LINK_LAYER_ETHERNET
  RDMA_PS_TCP RDMA_OPTION_ID RDMA_OPTION_ID_ACK_TIMEOUT RDMA_OPTION_ID_AFONLY
  RDMA_CM_EVENT_ADDR_RESOLVED RDMA_CM_EVENT_ADDR_ERROR RDMA_CM_EVENT_ROUTE_RESOLVED RDMA_CM_EVENT_ROUTE_ERROR
  RDMA_CM_EVENT_CONNECT_REQUEST RDMA_CM_EVENT_CONNECT_ERROR RDMA_CM_EVENT_UNREACHABLE RDMA_CM_EVENT_REJECTED
  RDMA_CM_EVENT_ESTABLISHED RDMA_CM_EVENT_DISCONNECTED RDMA_CM_EVENT_DEVICE_REMOVAL RDMA_CM_EVENT_ADDR_CHANGE
  RDMA_CM_EVENT_TIMEWAIT_EXIT
)
{
  printf '#include <stddef.h>\n#include <stdio.h>\n#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\nint main(void) {\n'
  for line in "${structs[@]}"; do
    read -r name fields <<<"$line"
    upper=${name^^}
    printf 'printf("/// `struct %s`.\\npub const %s_SIZE: usize = %%zu;\\n", sizeof(struct %s));\n' "$name" "$upper" "$name"
    for field in $fields; do
      printf 'printf("pub const %s_%s: usize = %%zu;\\n", offsetof(struct %s, %s));\n' \
        "$upper" "$(tr '.a-z' '_A-Z' <<<"$field")" "$name" "$field"
    done
  done
  printf 'printf("\\n");\n'
  for name in "${constants[@]}"; do
    printf 'printf("pub const %s: u32 = %%u;\\n", (unsigned)%s);\n' "$name" "$name"
  done
  printf 'return 0;\n}\n'
} >"$dir/layout.c"
"${CC:-cc}" ${RDMA_INCLUDE:+-I"$RDMA_INCLUDE"} -o "$dir/layout" "$dir/layout.c"
{
  printf '//! Sizes, offsets and numbers of libibverbs and librdmacm on 64-bit Linux. Made by `layout.sh`; do not edit.\n\n'
  printf '#![allow(missing_docs, dead_code)]\n\n'
  "$dir/layout"
} >"$dir/layout.rs"
rustfmt --edition 2024 --config max_width=100 "$dir/layout.rs"
if [[ ${1:-} == --check ]]; then
  diff -u layout.rs "$dir/layout.rs" && echo "layout.rs is what the headers say"
else
  cp "$dir/layout.rs" layout.rs
fi
