//! What is asked of the catalogs. Every query answers rows of kind, name, oid of the relation it belongs to (0: none),
//! properties, and expressions. None asks for one object at a time, so that thousands of tables take a second.
//!
//! Left out are members of extensions, which their scripts make; what an initial cluster brings; columns' order, which
//! a restore may change below inherited tables; owners, rights, comments and tablespaces.

/// The users' relations, which other queries join; their toast tables and indexes are none.
const RELATIONS: &str = "
    relations AS (
        SELECT c.oid, c.relname, c.relkind, format('%I.%I', n.nspname, c.relname) AS label
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c') AND c.relpersistence <> 't'
           AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
           AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid))";
/// Whatever a `CREATE EXTENSION` makes.
const MEMBERS: &str = "members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')";

/// Queries in the order in which a reader of a report wants to see what they find.
pub(super) const OBJECTS: [&str; 15] = [
    SCHEMAS,
    RELATIONS_THEMSELVES,
    SEQUENCES,
    COLUMNS,
    INDEXES,
    CONSTRAINTS,
    TRIGGERS,
    RULES,
    POLICIES,
    FUNCTIONS,
    TYPES,
    STATISTICS,
    EVENT_TRIGGERS,
    PUBLICATIONS,
    OTHERS,
];

/// The query with what all of them have in common in front.
pub(super) fn whole(query: &str) -> String {
    format!("WITH {MEMBERS}, {RELATIONS} {query}")
}

/// Tables of publications, with the columns and the condition that came with version 15.
pub(super) fn published(server_version: u32) -> String {
    let (is_listed, condition) = match server_version {
        150_000.. => ("a.attnum = ANY (s.prattrs)", "s.prqual"),
        _ => ("false", "NULL"),
    };
    format!(
        "SELECT 'published table', format('%s in %I', r.label, p.pubname), r.oid,
                (SELECT string_agg(a.attname, ',' ORDER BY a.attname) FROM pg_attribute a
                  WHERE a.attrelid = r.oid AND {is_listed}),
                pg_get_expr({condition}, r.oid)
           FROM relations r JOIN pg_publication_rel s ON s.prrelid = r.oid
           JOIN pg_publication p ON p.oid = s.prpubid"
    )
}

/// A new database has a schema public of its own, which a dump may not know.
const SCHEMAS: &str = "
    SELECT 'schema', format('%I', n.nspname), 0::oid, '', '' FROM pg_namespace n
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
       AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)";

/// A composite type is known by another oid in a dump's table of contents, so that it is given as belonging to none.
const RELATIONS_THEMSELVES: &str = "
    SELECT CASE r.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                          WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'composite type' END,
           r.label, CASE WHEN r.relkind = 'c' THEN 0::oid ELSE r.oid END,
           concat_ws('|', c.relpersistence, c.relreplident, c.relrowsecurity, c.relforcerowsecurity,
                     'of ' || nullif(c.reloftype, 0)::regtype::text,
                     'by ' || (SELECT amname FROM pg_am WHERE oid = c.relam),
                     'with ' || (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(c.reloptions) o),
                     'below ' || (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhparent::regclass::text)
                                    FROM pg_inherits i WHERE i.inhrelid = c.oid),
                     'at ' || s.srvname, (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(t.ftoptions) o)),
           concat_ws('|', CASE WHEN r.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
                     pg_get_expr(c.relpartbound, c.oid),
                     CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END)
      FROM relations r JOIN pg_class c ON c.oid = r.oid
      LEFT JOIN pg_foreign_table t ON t.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = t.ftserver
     WHERE r.relkind <> 'S'";

const SEQUENCES: &str = "
    SELECT 'sequence', r.label, r.oid,
           concat_ws('|', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle,
                     (SELECT string_agg(format('%s %s.%I', d.deptype, d.refobjid::regclass, a.attname), ',')
                        FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                       WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i')
                         AND d.refclassid = 'pg_class'::regclass)),
           ''
      FROM relations r JOIN pg_sequence s ON s.seqrelid = r.oid";

/// Properties by `to_jsonb`, as not every version has them all. Servers since 15.20, and the releases beside it, mark each
/// column with a random `pg_attver` of their own, which pg_dump leaves out.
const COLUMNS: &str = "
    SELECT 'column', format('%s.%I', r.label, a.attname), CASE WHEN r.relkind = 'c' THEN 0::oid ELSE r.oid END,
           concat_ws('|', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                     CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation END,
                     CASE WHEN r.relkind IN ('r', 'p', 'f') THEN
                         concat_ws('|', a.attstorage, coalesce(j.properties ->> 'attstattarget', '-1'),
                                   j.properties ->> 'attcompression') END,
                     (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(a.attoptions) o
                       WHERE o !~ '^pg_attver='),
                     (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(a.attfdwoptions) o)),
           coalesce(pg_get_expr(d.adbin, d.adrelid), '')
      FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
      CROSS JOIN LATERAL (SELECT to_jsonb(a) - 'attmissingval' AS properties) j
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S'";

/// Those that pg_dump dumps: an index that was never finished is none.
const INDEXES: &str = "
    SELECT 'index', format('%I.%I', n.nspname, c.relname), r.oid,
           concat_ws('|', i.indisclustered, i.indisreplident,
                     (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid)),
           pg_get_indexdef(c.oid)
      FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE i.indisready AND (i.indisvalid OR r.relkind = 'p')
       AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)";

/// Of foreign keys among partitions only those that are dumped: the server makes and names the others by itself.
const CONSTRAINTS: &str = "
    SELECT 'constraint', format('%I on %s', c.conname, coalesce(r.label, c.contypid::regtype::text)),
           coalesce(r.oid, 0::oid), concat_ws('|', c.contype, c.condeferrable, c.condeferred),
           pg_get_constraintdef(c.oid)
      FROM pg_constraint c LEFT JOIN relations r ON r.oid = c.conrelid
      LEFT JOIN pg_type t ON t.oid = c.contypid LEFT JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE c.contype <> 't' AND NOT (c.contype = 'f' AND c.conparentid <> 0)
       AND (r.oid IS NOT NULL OR (n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'))
       AND NOT EXISTS (SELECT FROM members m WHERE (m.classid = 'pg_constraint'::regclass AND m.objid = c.oid)
                          OR (m.classid = 'pg_type'::regclass AND m.objid = c.contypid))";

const TRIGGERS: &str = "
    SELECT 'trigger', format('%I on %s', t.tgname, r.label), r.oid, t.tgenabled::text, pg_get_triggerdef(t.oid)
      FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal";

const RULES: &str = "
    SELECT 'rule', format('%I on %s', w.rulename, r.label), r.oid, w.ev_enabled::text, pg_get_ruledef(w.oid)
      FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'";

const POLICIES: &str = "
    SELECT 'policy', format('%I on %s', p.polname, r.label), r.oid,
           concat_ws('|', p.polcmd, p.polpermissive,
                     (SELECT string_agg(name, ',' ORDER BY name) FROM (
                         SELECT CASE role WHEN 0 THEN 'public' ELSE format('%I', pg_get_userbyid(role)) END AS name
                           FROM unnest(p.polroles) role) roles)),
           concat_ws('|', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
      FROM relations r JOIN pg_policy p ON p.polrelid = r.oid";

/// A body's text counts as it is; only a body in standard SQL is stored as an expression.
const FUNCTIONS: &str = "
    SELECT CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END,
           format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), 0::oid,
           concat_ws('|', p.prokind, l.lanname, p.prosrc, p.probin, p.prosecdef, p.proleakproof, p.provolatile,
                     p.proparallel, p.prorettype::regtype,
                     (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(p.proconfig) o)),
           CASE p.prokind WHEN 'a' THEN
               concat_ws('|', a.aggkind, a.aggtransfn::regprocedure, a.aggfinalfn::regprocedure,
                         a.aggcombinefn::regprocedure, a.aggtranstype::regtype, a.aggsortop::regoperator, a.agginitval)
           ELSE pg_get_functiondef(p.oid) END
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
      LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)";

/// Composite types are relations; those of arrays and of tables' rows come with what they are of.
const TYPES: &str = "
    SELECT CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range' ELSE 'type' END,
           format('%I.%I', n.nspname, t.typname), 0::oid,
           concat_ws('|', (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
                             FROM pg_enum e WHERE e.enumtypid = t.oid),
                     CASE WHEN t.typtype = 'd' THEN
                         concat_ws('|', format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typcollation::regcollation)
                     END,
                     (SELECT concat_ws('|', g.rngsubtype::regtype, g.rngcollation::regcollation, g.rngcanonical::regproc,
                                       g.rngsubdiff::regproc) FROM pg_range g WHERE g.rngtypid = t.oid),
                     CASE WHEN t.typtype = 'b' THEN
                         concat_ws('|', t.typinput::regproc, t.typoutput::regproc, t.typlen, t.typbyval, t.typalign)
                     END),
           coalesce(pg_get_expr(t.typdefaultbin, 0), '')
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE t.typtype IN ('e', 'd', 'r', 'b') AND t.typisdefined
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_type element WHERE element.typarray = t.oid)
       AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)";

const STATISTICS: &str = "
    SELECT 'statistics', format('%I.%I', n.nspname, s.stxname), r.oid,
           coalesce(to_jsonb(s) ->> 'stxstattarget', '-1'), pg_get_statisticsobjdef(s.oid)
      FROM relations r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace";

const EVENT_TRIGGERS: &str = "
    SELECT 'event trigger', format('%I', e.evtname), 0::oid,
           concat_ws('|', e.evtevent, e.evtenabled, e.evtfoid::regproc,
                     (SELECT string_agg(t, ',' ORDER BY t) FROM unnest(e.evttags) t)), ''
      FROM pg_event_trigger e
     WHERE NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = e.oid)";

const PUBLICATIONS: &str = "
    SELECT 'publication', format('%I', p.pubname), 0::oid, (to_jsonb(p) - 'oid' - 'pubowner')::text, ''
      FROM pg_publication p
     WHERE NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_publication'::regclass AND m.objid = p.oid)";

/// Kinds that few databases have: by their names, with what is easily had of their properties.
const OTHERS: &str = "
    SELECT i.type, i.identity, 0::oid, o.properties, ''
      FROM (SELECT 'pg_collation'::regclass AS class, oid,
                   (to_jsonb(c) - 'oid' - 'collnamespace' - 'collowner' - 'collversion')::text AS properties
              FROM pg_collation c
            UNION ALL SELECT 'pg_operator'::regclass, oid, oprcode::regprocedure::text FROM pg_operator
            UNION ALL SELECT 'pg_cast'::regclass, oid, concat_ws('|', castfunc::regprocedure, castcontext, castmethod)
                        FROM pg_cast
            UNION ALL SELECT 'pg_conversion'::regclass, oid, conproc::regproc::text FROM pg_conversion
            UNION ALL SELECT 'pg_ts_config'::regclass, c.oid,
                             (SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapdict::regdictionary), ','
                                                ORDER BY m.maptokentype, m.mapseqno)
                                FROM pg_ts_config_map m WHERE m.mapcfg = c.oid) FROM pg_ts_config c
            UNION ALL SELECT 'pg_ts_dict'::regclass, oid, coalesce(dictinitoption, '') FROM pg_ts_dict
            UNION ALL SELECT 'pg_ts_parser'::regclass, oid, '' FROM pg_ts_parser
            UNION ALL SELECT 'pg_ts_template'::regclass, oid, '' FROM pg_ts_template
            UNION ALL SELECT 'pg_opclass'::regclass, oid, concat_ws('|', opcintype::regtype, opcdefault) FROM pg_opclass
            UNION ALL SELECT 'pg_opfamily'::regclass, oid, '' FROM pg_opfamily
            UNION ALL SELECT 'pg_am'::regclass, oid, amhandler::regproc::text FROM pg_am
            UNION ALL SELECT 'pg_language'::regclass, oid, lanplcallfoid::regproc::text FROM pg_language
            UNION ALL SELECT 'pg_transform'::regclass, oid, '' FROM pg_transform
            UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid,
                             (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(fdwoptions) o) FROM pg_foreign_data_wrapper
            UNION ALL SELECT 'pg_foreign_server'::regclass, oid,
                             concat_ws('|', srvtype, srvversion,
                                       (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(srvoptions) o))
                        FROM pg_foreign_server) o
      CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) i
     WHERE o.oid >= 16384
       AND NOT EXISTS (SELECT FROM members m WHERE m.classid = o.class AND m.objid = o.oid)";

/// Names of constraints that were never checked against all rows.
pub(super) const NOT_VALIDATED: &str = "
    SELECT format('%I on %s', c.conname, coalesce(r.label, c.contypid::regtype::text))
      FROM pg_constraint c LEFT JOIN relations r ON r.oid = c.conrelid
     WHERE NOT c.convalidated AND NOT (c.contype = 'f' AND c.conparentid <> 0)
       AND (r.oid IS NOT NULL OR c.contypid <> 0) ORDER BY 1";

/// Names of materialized views that hold nothing and cannot be asked.
pub(super) const NOT_POPULATED: &str = "
    SELECT r.label FROM relations r JOIN pg_class c ON c.oid = r.oid
     WHERE r.relkind = 'm' AND NOT c.relispopulated ORDER BY 1";

/// Collations with a version that users' columns have or users made, and that version.
pub(super) const COLLATIONS: &str = "
    SELECT format('%I.%I', n.nspname, c.collname), c.collversion
      FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
     WHERE c.collversion IS NOT NULL
       AND (n.nspname <> 'pg_catalog'
            OR c.oid IN (SELECT a.attcollation FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid))
     ORDER BY 1";
