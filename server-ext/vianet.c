/*
 * What a PostgreSQL session has become since its login, in one call: README.md says which rows there are and what they mean.
 *
 * Nothing here looks a name up: settings come out of the server's own table, prepared statements, channels and cursors out of its
 * own functions by their fixed numbers, temporary objects out of pg_depend by an index. So no search_path, temporary table or operator
 * of the session's can change an answer.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/timeline.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/prepare.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#if PG_VERSION_NUM < 130000 || PG_VERSION_NUM >= 180000
#error "vianet: made for PostgreSQL 13 to 17"
#endif

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(vianet_session_state);
PG_FUNCTION_INFO_V1(vianet_holds);

#define COLUMNS 5

typedef struct
{
	Tuplestorestate *rows;
	TupleDesc	columns;
	/* The caller's, for set-returning functions of the server's. */
	ExprContext *context;
} Answer;

/* One row. The first four columns are text, NULL where there is none. */
static void
put_with_types(Answer *answer, const char *kind, const char *name, const char *value, const char *source, ArrayType *types)
{
	const char *texts[] = {kind, name, value, source};
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];

	for (int i = 0; i < lengthof(texts); i++)
	{
		nulls[i] = texts[i] == NULL;
		values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(texts[i]);
	}
	nulls[COLUMNS - 1] = types == NULL;
	values[COLUMNS - 1] = PointerGetDatum(types);
	tuplestore_putvalues(answer->rows, answer->columns, values, nulls);
}

static void
put(Answer *answer, const char *kind, const char *name, const char *value, const char *source)
{
	put_with_types(answer, kind, name, value, source, NULL);
}

/* ------------------------------------------------------------------------------------------------------------ settings */

/* The rule of pg_settings: some are for superusers and pg_read_all_settings. */
static bool
may_see(struct config_generic *setting)
{
#if PG_VERSION_NUM >= 140000
	return !(setting->flags & GUC_SUPERUSER_ONLY) || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS);
#else
	return !(setting->flags & GUC_SUPERUSER_ONLY) || is_member_of_role(GetUserId(), DEFAULT_ROLE_READ_ALL_SETTINGS);
#endif
}

/*
 * What to give to set_config to have the value again: as the server itself hands settings to its parallel workers. SHOW would round
 * numbers. NULL where it cannot be read.
 */
static const char *
value_of(struct config_generic *setting)
{
	/* Not shown anywhere (seed), except custom settings, which are unknown to pg_settings for another reason. */
	if ((setting->flags & GUC_NO_SHOW_ALL) && !(setting->flags & GUC_CUSTOM_PLACEHOLDER))
		return NULL;
	switch (setting->vartype)
	{
		case PGC_BOOL:
			return *((struct config_bool *) setting)->variable ? "on" : "off";
		case PGC_INT:
			return psprintf("%d", *((struct config_int *) setting)->variable);
		case PGC_REAL:
			return psprintf("%.17g", *((struct config_real *) setting)->variable);
		case PGC_STRING:
			{
				/* NULL is what RESET and ROLLBACK leave of a custom setting; SHOW gives an empty text for it. */
				const char *text = *((struct config_string *) setting)->variable;

				return text ? text : "";
			}
		case PGC_ENUM:
			{
				struct config_enum *choice = (struct config_enum *) setting;

				return config_enum_lookup_by_value(choice, *choice->variable);
			}
	}
	return NULL;
}

/* By its number, too: who was renamed meanwhile is found under the new name, and who has the old one is somebody else. */
static void
put_role(Answer *answer, const char *kind, Oid role, const char *source)
{
	const char *name = OidIsValid(role) ? GetUserNameFromId(role, true) : "none";
	Datum		number = ObjectIdGetDatum(role);

	put_with_types(answer, kind, NULL, name, source, construct_array(&number, 1, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* These belong to the transaction, which sets them at its start; at any other time their values mean nothing. */
static bool
is_of_transaction(const char *name)
{
	return strcmp(name, "transaction_isolation") == 0 || strcmp(name, "transaction_read_only") == 0 ||
		strcmp(name, "transaction_deferrable") == 0;
}

static void
put_setting(Answer *answer, struct config_generic *setting, bool everything)
{
	const char *name = setting->name;
	const char *source = GucSource_Names[setting->source];
	/* Since the server read its files and command line: by database, role, client or the session itself. */
	bool		of_session = setting->source > PGC_S_ARGV;
	const char *value;

	if (strcmp(name, "role") == 0)
	{
		put_role(answer, "role", GetCurrentRoleId(), source);
		return;
	}
	if (strcmp(name, "session_authorization") == 0)
	{
		put_role(answer, "session_authorization", GetSessionUserId(), source);
		return;
	}
	/* The server's own, which no session can have for itself. */
	if (setting->context < PGC_SU_BACKEND || is_of_transaction(name))
		return;
	/* A custom setting is one that a fresh session may not know, whatever its value. */
	if (!everything && !of_session && !(setting->flags & GUC_CUSTOM_PLACEHOLDER))
		return;
	value = may_see(setting) ? value_of(setting) : NULL;
	/* What the session set and cannot be read back must be known to be there. */
	if (value == NULL && !of_session)
		return;
	put(answer, "setting", name, value, source);
}

static void
put_settings(Answer *answer, bool everything)
{
#if PG_VERSION_NUM >= 160000
	int			count;
	struct config_generic **settings = get_guc_variables(&count);
#else
	int			count = GetNumConfigOptions();
	struct config_generic **settings = get_guc_variables();
#endif

	for (int i = 0; i < count; i++)
		put_setting(answer, settings[i], everything);
}

/* ------------------------------------------------------------------- what the server's own set-returning functions say */

typedef void (*TakeRow) (Answer *answer, Datum *values, bool *nulls);

/* Calls one that has no arguments, and gives its rows to `take`. */
static void
each_row(Answer *answer, Oid function, TakeRow take)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	flinfo;
	ReturnSetInfo info = {.type = T_ReturnSetInfo};

	fmgr_info(function, &flinfo);
	info.econtext = answer->context;
	info.allowedModes = SFRM_ValuePerCall | SFRM_Materialize;
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, NULL, (Node *) &info);
	for (;;)
	{
		Datum		value;

		info.returnMode = SFRM_ValuePerCall;
		info.isDone = ExprSingleResult;
		fcinfo->isnull = false;
		value = FunctionCallInvoke(fcinfo);
		if (info.returnMode == SFRM_Materialize)
			break;
		if (info.isDone == ExprEndResult)
			return;
		take(answer, &value, &fcinfo->isnull);
		if (info.isDone == ExprSingleResult)
			return;
	}
	if (info.setResult != NULL)
	{
		int			columns = info.setDesc->natts;
		Datum	   *values = palloc(columns * sizeof(Datum));
		bool	   *nulls = palloc(columns * sizeof(bool));
		TupleTableSlot *slot = MakeSingleTupleTableSlot(info.setDesc, &TTSOpsMinimalTuple);

		while (tuplestore_gettupleslot(info.setResult, true, false, slot))
		{
			slot_getallattrs(slot);
			memcpy(values, slot->tts_values, columns * sizeof(Datum));
			memcpy(nulls, slot->tts_isnull, columns * sizeof(bool));
			take(answer, values, nulls);
		}
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(info.setResult);
	}
}

/* The columns that a statement gives, as whoever runs it may have been told them; the server holds to that, or raises an error. */
static const char *
columns_of(TupleDesc result)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < result->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(result, i);

		appendStringInfo(&text, "%s%s %u %d", i > 0 ? ", " : "", quote_identifier(NameStr(column->attname)),
						 column->atttypid, column->atttypmod);
	}
	return text.data;
}

static bool
is_blank(const char *text, int length)
{
	return strspn(text, " \t\r\n\f\v;") >= length;
}

/*
 * A prepared statement. The server keeps the whole query string that it came in, and where in it the statement is. To run that string
 * again would run its other statements again: only the statement itself is given, and `batch` says that it had others beside it.
 */
static void
take_prepared(Answer *answer, Datum *values, bool *nulls)
{
	const char *name = TextDatumGetCString(values[0]);
	PreparedStatement *prepared = FetchPreparedStatement(name, false);
	CachedPlanSource *plan;
	RawStmt    *raw;
	const char *source;
	const char *statement = NULL;
	Datum	   *types;
	Datum	   *meant;
	ListCell   *cell;
	int			count = 0;

	if (prepared == NULL)
		return;
	plan = prepared->plansource;
	raw = plan->raw_parse_tree;
	source = prepared->from_sql ? "sql" : "protocol";
	if (raw == NULL)
		/* Nothing but white space and comments. */
		statement = plan->query_string;
	else if (raw->stmt_location >= 0)
	{
		const char *all = plan->query_string;
		int			start = raw->stmt_location;
		int			end = strlen(all);

		/* Length 0: up to the end. */
		if (raw->stmt_len > 0 && raw->stmt_len <= end - start)
			end = start + raw->stmt_len;
		if (!is_blank(all, start) || !is_blank(all + end, strlen(all + end)))
			source = "batch";
		while (start < end && is_blank(all + start, 1))
			start++;
		statement = pnstrdup(all + start, end - start);
	}
	types = palloc(plan->num_params * sizeof(Datum));
	for (int i = 0; i < plan->num_params; i++)
		types[i] = ObjectIdGetDatum(plan->param_types[i]);
	put_with_types(answer, "prepared", name, statement, source,
				   construct_array(types, plan->num_params, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	/*
	 * What the names in it stand for was settled, too: a table or function made since, earlier in the search_path, does not take the
	 * place. Of functions the server remembers a hash of the oid.
	 */
	meant = palloc((list_length(plan->relationOids) + list_length(plan->invalItems)) * sizeof(Datum));
	foreach(cell, plan->relationOids)
		meant[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	foreach(cell, plan->invalItems)
		meant[count++] = ObjectIdGetDatum(((PlanInvalItem *) lfirst(cell))->hashValue);
	put_with_types(answer, "result", name, plan->resultDesc ? columns_of(plan->resultDesc) : NULL, NULL,
				   construct_array(meant, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

static void
take_channel(Answer *answer, Datum *values, bool *nulls)
{
	put(answer, "listen", TextDatumGetCString(values[0]), NULL, NULL);
}

/* Of name, statement, is_holdable, ...: one that outlives its transaction. */
static void
take_cursor(Answer *answer, Datum *values, bool *nulls)
{
	if (DatumGetBool(values[2]))
		put(answer, "cursor", TextDatumGetCString(values[0]), TextDatumGetCString(values[1]), NULL);
}

/* --------------------------------------------------------------------------------------------------- temporary objects */

/* Whatever is in the session's temporary schema: all that is made in a schema depends on it. */
static void
put_temporary(Answer *answer)
{
	Oid			schema;
	Oid			toast_schema;
	Relation	depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	GetTempNamespaceState(&schema, &toast_schema);
	if (!OidIsValid(schema))
		return;
	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(schema));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend entry = (Form_pg_depend) GETSTRUCT(tuple);
		ObjectAddress object;

		ObjectAddressSubSet(object, entry->classid, entry->objid, entry->objsubid);
#if PG_VERSION_NUM >= 140000
		put(answer, "temporary", getObjectIdentity(&object, true), getObjectTypeDescription(&object, true), NULL);
#else
		put(answer, "temporary", getObjectIdentity(&object), getObjectTypeDescription(&object), NULL);
#endif
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

/* ------------------------------------------------------------------------------------------------------ advisory locks */

typedef struct
{
	LOCKTAG		tag;
	LOCKMASK	modes;
} Held;

static List *
remember_advisory(List *all, PROCLOCK *held)
{
	Held	   *copy;

	if (held->tag.myLock->tag.locktag_lockmethodid != USER_LOCKMETHOD || held->holdMask == 0)
		return all;
	copy = palloc(sizeof(Held));
	copy->tag = held->tag.myLock->tag;
	copy->modes = held->holdMask;
	return lappend(all, copy);
}

/* Ours, out of the lists that the lock manager keeps for this process: pg_locks would look at those of everybody. */
static List *
advisory_locks(void)
{
	List	   *all = NIL;

	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
	{
		LWLock	   *partition = LockHashPartitionLockByIndex(i);

		/* Others may change the list: they move fast-path locks of ours into it. */
		LWLockAcquire(partition, LW_SHARED);
#if PG_VERSION_NUM >= 160000
		{
			dlist_iter	each;

			dlist_foreach(each, &MyProc->myProcLocks[i])
				all = remember_advisory(all, dlist_container(PROCLOCK, procLink, each.cur));
		}
#else
		{
			SHM_QUEUE  *queue = &MyProc->myProcLocks[i];
			PROCLOCK   *held = (PROCLOCK *) SHMQueueNext(queue, queue, offsetof(PROCLOCK, procLink));

			for (; held; held = (PROCLOCK *) SHMQueueNext(queue, &held->procLink, offsetof(PROCLOCK, procLink)))
				all = remember_advisory(all, held);
		}
#endif
		LWLockRelease(partition);
	}
	return all;
}

static void
put_advisory(Answer *answer)
{
	/* The lock manager tells nobody whether session or transaction holds it; without a transaction it can only be the session. */
	const char *holder = IsTransactionBlock() ? NULL : "session";
	ListCell   *cell;

	foreach(cell, advisory_locks())
	{
		Held	   *held = lfirst(cell);
		LOCKTAG    *tag = &held->tag;
		int64		key = (int64) (((uint64) tag->locktag_field2 << 32) | tag->locktag_field3);
		/* Field 4 is 1 for one key of 64 bits, 2 for two of 32. */
		char	   *name = tag->locktag_field4 == 1 ?
			psprintf(INT64_FORMAT, key) :
			psprintf("%d,%d", (int32) tag->locktag_field2, (int32) tag->locktag_field3);

		for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++)
			if (held->modes & LOCKBIT_ON(mode))
				put(answer, "advisory", name, GetLockmodeName(USER_LOCKMETHOD, mode), holder);
	}
}

/* -------------------------------------------------------------------------------------------------------------- others */

/* Libraries that are loaded, by file name, those that a function's call has loaded included. */
static void
put_libraries(Answer *answer)
{
	Size		size = EstimateLibraryStateSpace();
	char	   *all = palloc0(size + 1);

	SerializeLibraryState(size, all);
	for (const char *path = all; *path != '\0'; path += strlen(path) + 1)
	{
		const char *slash = strrchr(path, '/');

		put(answer, "library", slash ? slash + 1 : path, NULL, NULL);
	}
}

static void
put_replication(Answer *answer)
{
	List	   *names = NIL;
	ListCell   *cell;

	if (replorigin_session_origin != InvalidRepOriginId)
		put(answer, "replication_origin", psprintf("%u", replorigin_session_origin), NULL, NULL);

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		/* Nobody else writes our process id into a slot, or takes it out of it. */
		if (slot->in_use && slot->active_pid == MyProcPid && slot->data.persistency == RS_TEMPORARY)
			names = lappend(names, pstrdup(NameStr(slot->data.name)));
	}
	LWLockRelease(ReplicationSlotControlLock);
	foreach(cell, names)
		put(answer, "replication_slot", lfirst(cell), NULL, NULL);
}

static bool
backup_runs(void)
{
#if PG_VERSION_NUM >= 150000
	return get_backup_status() == SESSION_BACKUP_RUNNING;
#else
	return get_backup_status() == SESSION_BACKUP_NON_EXCLUSIVE;
#endif
}

/* ------------------------------------------------------------------------------------------------------------- commits */

/* Of a server that can be written to. */
static TimeLineID
present_timeline(void)
{
#if PG_VERSION_NUM >= 150000
	return GetWALInsertionTimeLine();
#else
	/* Set by the first question of this kind. */
	RecoveryInProgress();
	return ThisTimeLineID;
#endif
}

/* Behind the session's last commit that wrote something: a server that goes on from an earlier point has lost it. */
static void
put_written(Answer *answer)
{
	/* PREPARE TRANSACTION sets the second alone. */
	XLogRecPtr	end = Max(XactLastCommitEnd, XactLastRecEnd);

	if (XLogRecPtrIsInvalid(end) || RecoveryInProgress())
		return;
	/*
	 * A transaction that only read may have written too (it prunes pages), and nobody hurries to send that to the standby, which would then
	 * be refused for what nobody misses. What was committed synchronously is flushed already, and costs nothing here.
	 */
	XLogFlush(end);
	put(answer, "written", psprintf("%u", present_timeline()), psprintf("%X/%X", (uint32) (end >> 32), (uint32) end), NULL);
}

/*
 * Whether the server's history has what was written on a timeline up to a position. NULL on a standby, of which nobody knows yet where
 * it will go on from.
 */
Datum
vianet_holds(PG_FUNCTION_ARGS)
{
	int64		timeline = PG_GETARG_INT64(0);
	XLogRecPtr	end = PG_GETARG_LSN(1);

	if (RecoveryInProgress())
		PG_RETURN_NULL();
	if (XLogRecPtrIsInvalid(end) || end > GetXLogInsertRecPtr())
		PG_RETURN_BOOL(false);
	/* The last byte: behind it another timeline may begin. */
	PG_RETURN_BOOL(tliOfPointInHistory(end - 1, readTimeLineHistory(present_timeline())) == timeline);
}

Datum
vianet_session_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext before;
	Answer		answer;

	if (info == NULL || !IsA(info, ReturnSetInfo) || !(info->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("vianet.session_state gives a set of rows, which cannot be taken here")));
	before = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &answer.columns) != TYPEFUNC_COMPOSITE || answer.columns->natts != COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("vianet.session_state is not declared as its library expects"),
				 errhint("ALTER EXTENSION vianet UPDATE")));
	answer.rows = tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
	answer.context = info->econtext;
	info->returnMode = SFRM_Materialize;
	info->setResult = answer.rows;
	info->setDesc = answer.columns;
	MemoryContextSwitchTo(before);

	if (IsTransactionBlock())
		put(&answer, "transaction", NULL, NULL, NULL);
	put_role(&answer, "authenticated", GetAuthenticatedUserId(), NULL);
	put_settings(&answer, PG_GETARG_BOOL(0));
	each_row(&answer, F_PG_PREPARED_STATEMENT, take_prepared);
	each_row(&answer, F_PG_LISTENING_CHANNELS, take_channel);
	each_row(&answer, F_PG_CURSOR, take_cursor);
	put_temporary(&answer);
	put_advisory(&answer);
	put_libraries(&answer);
	put_replication(&answer);
	put_written(&answer);
	if (backup_runs())
		put(&answer, "backup", NULL, NULL, NULL);
	return (Datum) 0;
}
