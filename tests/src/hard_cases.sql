-- What a dump and a restore of PostgreSQL find hard, in one database. For psql, PostgreSQL 15 and newer, no extension needed.
-- Everything here is the same on every run, so that two databases made from it can be compared.
\set ON_ERROR_STOP on
set client_min_messages = warning;
set client_encoding = 'UTF8';
set timezone = 'UTC';
select current_setting('server_version_num')::int >= 180000 as is_18 \gset

-- Roles outlive the database: those of an earlier load are kept.
do $$
begin
  if not exists (select from pg_roles where rolname = 'hard_owner') then create role hard_owner; end if;
  if not exists (select from pg_roles where rolname = 'hard reader "quoted"') then create role "hard reader ""quoted"""; end if;
end $$;

create schema hard authorization hard_owner;
create schema "Ödd schéma";
comment on schema hard is E'a comment with ''quotes'', a \\ backslash,\na second line, $$dollars$$ and \u00fcmlauts';
alter default privileges in schema hard grant select on tables to "hard reader ""quoted""";
alter default privileges for role hard_owner revoke execute on functions from public;

-- == types

create type hard.mood as enum ('sad', 'ok', 'it''s "fine"', 'hap py', 'ünïcode');
alter type hard.mood add value 'so so' before 'ok';
create type hard.address as (street text, house int, tags text[]);
create type hard.person as (name text, home hard.address, moods hard.mood[]);
create domain hard.positive as int default 1 constraint above_zero check (value > 0);
create domain hard.small_positive as hard.positive check (value < 1000);
create domain hard.postcode as text collate "C" not null check (value ~ '^\d{5}$');
create type hard.float_range as range (subtype = float8, subtype_diff = float8mi, multirange_type_name = hard.float_ranges);
create collation hard.plain (provider = libc, locale = 'C');

create table hard.every_type (
  id int primary key,
  a_bool bool, a_char "char", a_name name, a_int2 int2, a_int8 int8, a_oid oid, a_float4 float4, a_float8 float8,
  a_numeric numeric, a_scaled numeric(20, 5), a_money money, a_text text, a_fixed char(12), a_varchar varchar(40),
  a_bytea bytea, a_date date, a_time time, a_timetz timetz, a_timestamp timestamp, a_timestamptz timestamptz(3),
  a_interval interval, a_bit bit(7), a_varbit varbit, a_inet inet, a_cidr cidr, a_mac macaddr, a_mac8 macaddr8,
  a_point point, a_line line, a_lseg lseg, a_box box, a_path path, a_polygon polygon, a_circle circle,
  a_json json, a_jsonb jsonb, a_jsonpath jsonpath, a_tsvector tsvector, a_tsquery tsquery, a_uuid uuid,
  a_lsn pg_lsn, a_snapshot pg_snapshot, a_class regclass, an_int4range int4range, a_tsrange tstzrange,
  a_multirange nummultirange, a_floatrange hard.float_range, floatranges hard.float_ranges,
  a_mood hard.mood, an_address hard.address, a_person hard.person, persons hard.person[],
  ints int[], texts text[], dates date[], a_positive hard.positive, a_small hard.small_positive
);
insert into hard.every_type values
  (1, true, 'x', 'a name', -32768, -9223372036854775808, 4294967295, 'NaN', '-Infinity', 'NaN', 123456789012345.67891, -12.34,
   'plain', 'padded', 'short', '\x00ff5c2e0a', '-infinity', '24:00:00', '23:59:59.999999-15:59', 'infinity', '4713-01-01 00:00:00+00 BC',
   '-178000000 years', b'1010101', b'', '::ffff:1.2.3.4/96', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
   '(1e-300,-0)', '{1,-1,0}', '[(0,0),(1,1)]', '(2,2),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),1>',
   '{"b": 1,  "a": [1, 2.50, null], "b": 2}', '{"b": 1, "a": [1, 2.50, null], "deep": {"ü": "\\n\"\u20ac"}}', '$."a"[*] ? (@ > 1)',
   'a fat cat sat:3A', 'fat & (rat | cat:ab)', '00000000-0000-0000-0000-000000000001', '16/B374D848', '10:20:10,14,15',
   'pg_catalog.pg_class', '[1,10)', '(,2026-01-01 00:00:00+00]', '{[1,2),[3,4.5]}', '[1.5,2.5]', '{[1,2],(3,4)}',
   'it''s "fine"', '("a ""quoted"" street, with commas",3,"{x,""y z"",NULL}")', row('n', row('s', 1, array['t'])::hard.address, array['sad', 'ünïcode']::hard.mood[]),
   array[row(null, null, null)::hard.person, null], '[-1:1]={1,null,3}', '{{a,"b,c"},{"d\"e","NULL"}}', '{infinity,-infinity,"0044-03-15 BC"}', 7, 999),
  (2, false, '', '', 0, 0, 0, '-0', '5e-324', 'Infinity', 0, 0, '', '', '', '', '2026-11-24', '00:00', '00:00+00', '0001-01-01 BC', 'infinity',
   '1 year -2 mons 3 days -04:05:06.789', b'0000000', b'10110', '0.0.0.0/0', '::/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00',
   '(Infinity,NaN)', '{0,1,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>', '  [ ]  ', 'null', '$', '', '', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
   '0/0', '1:1:', null, 'empty', '(,)', '{}', 'empty', '{}', 'sad', '(,,)', '(,,)', '{}', '{}', '{}', '{}', null, 1),
  (3, null, '\377', null, null, null, null, '1.1754944e-38', '1.7976931348623157e308', '-Infinity', null, '92233720368547758.07', null, null, null,
   null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
   null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, 2, null);

-- What COPY must escape, and what looks like the end of its data.
create table hard.texts (id int generated always as identity, body text, fallback text default E'a\tdefault\nwith ''all''');
insert into hard.texts (body) values
  ('\.'), (E'\\.\n'), (E'line\n\\.\nline'), ('\N'), (E'\\N\n'), (null), (''), (E'\t\ttabs\t'), (E'\r'), (E'\r\n'), (E'\n'), (E'\b\f\v\x01\x1f\x7f'),
  (E'back\\slash\\\\es\\'), ('"quotes" ''and'' `ticks`'), ('日本語 ελληνικά עברית 🐘 👩‍👩‍👧‍👦'), (E'combining e\u0301'), ('NULL'), ('--;drop'), ('$1 $$ $x$'),
  (repeat('long ', 20000)), (E'\\x41\\101'), ('PGDMP'), (E'trailing backslash\\'), (U&'\FEFFbom \200B zero width');

create table hard.floats (f8 float8, f4 float4);
insert into hard.floats select v, v::float4 from unnest(array['0', '-0', '0.1', '1e15', '123456789.12345678', 'NaN', 'Infinity', '-Infinity', '3.4e38']::float8[]) v;
insert into hard.floats values ('2.2250738585072014e-308', null);

-- == tables of every shape

create table hard.empty (id int primary key, body text);
create table hard.no_columns ();
insert into hard.no_columns select from generate_series(1, 5);
create table hard.no_columns_empty ();
create table hard.dropped_columns (a int, b text, c int, d text default 'd');
insert into hard.dropped_columns values (1, 'b', 3, 'd');
alter table hard.dropped_columns drop column a, drop column c, add column e int default 42;
insert into hard.dropped_columns values (E'x\ty', null, -1);
create table hard.duplicates (body text);
insert into hard.duplicates select 'the same' from generate_series(1, 1000);
create unlogged table hard.unlogged (id int);
insert into hard.unlogged values (1), (2);
create table hard.of_type of hard.address (house with options default 7, primary key (street));
insert into hard.of_type values ('s', default, '{}');
create table hard.stored (
  id int generated by default as identity (start with 10 increment by 10),
  exact bytea, body text, width int generated always as (length(body)) stored, both_ways text generated always as (body || '/' || id::text) stored
);
alter table hard.stored alter exact set storage external, alter body set compression pglz, alter body set statistics 500;
insert into hard.stored (exact, body)
  select decode(string_agg(md5(n::text || m::text), '' order by m), 'hex'), repeat(md5(n::text), 1 + n * 30)
  from generate_series(1, 50) n, generate_series(1, 200) m group by n;
create table hard.defaults (id serial, at timestamptz default '2026-01-01 00:00:00+00', mood hard.mood default 'ok', tag hard.positive, code hard.postcode default '12345');
insert into hard.defaults (tag) select n from generate_series(1, 10) n;

create table "Ödd schéma"."Täble ""with"" quotes \ and 'more'" ("select" int, "Ünï cödé" text, "UPPER" int, "a""b" text, "new
line" text, " " text, "$1" text, "dot.ted" int);
insert into "Ödd schéma"."Täble ""with"" quotes \ and 'more'" values (1, 'ü', 2, '"', E'\n', ' ', '$', 3), (null, null, null, null, null, null, null, null);
create table "Ödd schéma"."new
line" (id int);
insert into "Ödd schéma"."new
line" values (1);
create table "Ödd schéma"."select" ("from" int primary key);
insert into "Ödd schéma"."select" values (1), (2);
create table "Ödd schéma".a_name_as_long_as_postgres_allows_sixty_three_characters_in_all (id int);
create table "Ödd schéma"."-- comment; drop table x; --" (";" text);
insert into "Ödd schéma"."-- comment; drop table x; --" values ('\! echo no');
create index "Index with ""quotes""" on "Ödd schéma"."Täble ""with"" quotes \ and 'more'" ("Ünï cödé" text_pattern_ops desc nulls last) where "select" > 0;
comment on column "Ödd schéma"."Täble ""with"" quotes \ and 'more'"."a""b" is E'column''s\ncomment';

-- == inheritance and partitions

create table hard.parent (id int primary key, body text not null default 'parent');
create table hard.other_parent (extra int check (extra > 0) );
create table hard.child (own text) inherits (hard.parent, hard.other_parent);
create table hard.grandchild (body text default 'overridden') inherits (hard.child);
create table hard.joined_later (id int not null, body text not null);
alter table hard.joined_later inherit hard.parent;
insert into hard.parent values (1, 'p');
insert into hard.child values (2, 'c', 1, 'own');
insert into hard.grandchild (id, extra) values (3, 5);
insert into hard.joined_later values (4, 'j');

create table hard.events (id bigint generated always as identity, at timestamptz not null, region text not null, body jsonb, primary key (id, at, region)) partition by range (at);
create table hard.events_2025 partition of hard.events for values from ('2025-01-01') to ('2026-01-01') partition by list (region);
create table hard.events_2025_eu partition of hard.events_2025 for values in ('de', 'fr', null);
create table hard.events_2025_rest partition of hard.events_2025 default;
create table hard.events_2026 (body jsonb, region text not null, dropped int, at timestamptz not null, id bigint not null);
alter table hard.events_2026 drop column dropped;
alter table hard.events attach partition hard.events_2026 for values from ('2026-01-01') to ('2027-01-01');
create table hard.events_default partition of hard.events default;
create index on hard.events (region, at);
alter table hard.events add constraint no_moon check (region <> 'moon');
insert into hard.events (at, region, body)
  select timestamptz '2024-06-01 00:00:00+00' + n * interval '1 day', (array['de', 'fr', 'us', 'jp'])[1 + n % 4], jsonb_build_object('n', n)
  from generate_series(1, 1500) n;
create table hard.hashed (key text primary key, n int) partition by hash (key);
create table hard.hashed_0 partition of hard.hashed for values with (modulus 3, remainder 0);
create table hard.hashed_1 partition of hard.hashed for values with (modulus 3, remainder 1);
create table hard.hashed_2 partition of hard.hashed for values with (modulus 3, remainder 2);
insert into hard.hashed select md5(n::text), n from generate_series(1, 300) n;
create table hard.by_mood (mood hard.mood, n int) partition by list (mood);
create table hard.by_mood_sad partition of hard.by_mood for values in ('sad');
create table hard.by_mood_rest partition of hard.by_mood default;
insert into hard.by_mood values ('sad', 1), ('ok', 2), (null, 3);
create table hard.without_partitions (id int) partition by range (id);

-- == keys that point at each other

create table hard.hen (id int primary key, egg int not null);
create table hard.egg (id int primary key, hen int not null references hard.hen deferrable initially deferred);
alter table hard.hen add foreign key (egg) references hard.egg on delete cascade deferrable initially deferred;
begin;
insert into hard.hen values (1, 10), (2, 20);
insert into hard.egg values (10, 2), (20, 1);
commit;
create table hard.tree (id int primary key, above int references hard.tree);
insert into hard.tree select n, nullif(n / 2, 0) from generate_series(1, 1000) n;
insert into hard.tree values (-1, null);
update hard.tree set above = -1 where id = 1;
create table hard.points_at_partitions (id bigint, at timestamptz, region text, foreign key (id, at, region) references hard.events);
insert into hard.points_at_partitions select id, at, region from hard.events limit 20;
create table hard.not_valid (id int, above int);
insert into hard.not_valid values (-5, 404);
alter table hard.not_valid add constraint positive check (id > 0) not valid, add constraint above_exists foreign key (above) references hard.tree not valid;
create table hard.booked (room int, during tstzrange, exclude using gist (during with &&) where (room = 1));
insert into hard.booked values (1, '[2026-01-01 00:00+00,2026-01-02 00:00+00)'), (2, '[2026-01-01 00:00+00,2026-01-02 00:00+00)');
create table hard.nulls_not_distinct (a int unique nulls not distinct, b int, unique (b) include (a));
insert into hard.nulls_not_distinct values (null, 1), (1, null);
alter table hard.nulls_not_distinct replica identity full;
alter table hard.tree cluster on tree_pkey;

-- == sequences with a past

create sequence hard.never_called start 5;
create sequence hard.called_once;
select nextval('hard.called_once') \g /dev/null
create sequence hard.backwards increment -3 minvalue -100 maxvalue 50 start 50 cycle cache 1;
select nextval('hard.backwards'), nextval('hard.backwards'), nextval('hard.backwards') \g /dev/null
create sequence hard.set_uncalled as smallint maxvalue 100;
select setval('hard.set_uncalled', 77, false) \g /dev/null
create sequence hard.at_the_end maxvalue 9223372036854775807;
select setval('hard.at_the_end', 9223372036854775807) \g /dev/null
create sequence hard."Odd ""sequence""" owned by hard.empty.id;
select setval('hard."Odd ""sequence"""', 12345) \g /dev/null

-- == views

create view hard.plain_view as select id, body from hard.texts where body is not null with local check option;
create view hard.barrier with (security_barrier, security_invoker) as select * from hard.events where region = 'de';
-- Needs the primary key, so that a dump has to make it in two steps.
create view hard.grouped as select id, body, count(*) as n from hard.parent group by id;
create view hard.counting as with recursive c (n) as (values (1) union all select n + 1 from c where n < 10) select n from c;
create materialized view hard.per_region as select region, count(*) as n from hard.events group by region order by region;
create unique index on hard.per_region (region);
create materialized view hard.on_top as select sum(n) as total from hard.per_region;
create materialized view hard.unpopulated as select * from hard.per_region with no data;
create view hard.of_matview as select * from hard.on_top;

-- == code

create function hard.double(int) returns int language sql immutable strict parallel safe return $1 * 2;
create function hard.oldest() returns timestamptz language sql stable begin atomic select min(at) from hard.events; end;
create function hard.many(out a int, inout b text default 'x', variadic c int[] default '{}') language plpgsql security definer set search_path = pg_catalog set work_mem = '1MB'
  as $body$ begin a := cardinality(c); b := b || $q$ it's \ nested $q$; end $body$;
create procedure hard.proc(inout n int) language plpgsql as 'begin n := n + 1; end';
create aggregate hard.product(float8) (sfunc = float8mul, stype = float8, initcond = '1');
create operator hard.=~= (leftarg = int, rightarg = int, function = int4eq, commutator = operator(hard.=~=));
create cast (hard.address as text) with inout as assignment;
create function hard.even(int) returns bool language sql immutable return $1 % 2 = 0;
create table hard.uses_function (n int check (hard.even(n)), twice int generated always as (hard.double(n)) stored);
insert into hard.uses_function select n * 2 from generate_series(1, 10) n;
create index on hard.uses_function (hard.double(n));
create text search configuration hard.search (copy = simple);
create text search dictionary hard.dict (template = simple, accept = false);
alter text search configuration hard.search alter mapping for word with hard.dict, simple;
create statistics hard.correlated (dependencies, ndistinct, mcv) on region, at from hard.events_2026;
create statistics hard.expression on (id % 10) from hard.tree;
alter statistics hard.correlated set statistics 100;

create table hard.audited (id int primary key, body text);
create table hard.audit (id int, body text);
create function hard.note() returns trigger language plpgsql as $$ begin insert into hard.audit values (new.id, tg_name); return new; end $$;
create trigger enabled after insert on hard.audited for each row execute function hard.note();
create trigger disabled after insert on hard.audited for each row when (new.id > 0) execute function hard.note();
create trigger on_replica after insert on hard.audited for each row execute function hard.note();
create trigger always after update of body on hard.audited for each row execute function hard.note('an ''argument''');
create constraint trigger deferred after insert on hard.audited deferrable initially deferred for each row execute function hard.note();
alter table hard.audited disable trigger disabled, enable replica trigger on_replica, enable always trigger always;
create rule also as on delete to hard.audited do also insert into hard.audit values (old.id, 'rule');
create rule quiet as on update to hard.audit do instead nothing;
alter table hard.audit disable rule quiet;
insert into hard.audited values (1, 'one'), (2, 'two');
-- Whoever loads data with rules and triggers on would double the audit's rows.
create function hard.no_ddl() returns event_trigger language plpgsql as $$ begin if tg_tag = 'CREATE CONVERSION' then raise exception 'no conversions today'; end if; end $$;
create event trigger hard_guard on ddl_command_start when tag in ('CREATE CONVERSION') execute function hard.no_ddl();
create event trigger "Hard ""disabled""" on sql_drop execute function hard.no_ddl();
alter event trigger "Hard ""disabled""" disable;

-- == rights

create table hard.secret (owner name, body text);
insert into hard.secret values ('hard_owner', 'mine'), ('nobody', 'not mine'), ('postgres', 'whose');
alter table hard.secret enable row level security;
alter table hard.secret force row level security;
create policy mine on hard.secret for select to hard_owner using (owner = current_user);
create policy "Restrictive ""one""" on hard.secret as restrictive for all using (body <> 'hidden') with check (owner is not null);
create table hard.locked_out (id int);
insert into hard.locked_out values (1), (2), (3);
alter table hard.locked_out enable row level security;
alter table hard.secret owner to hard_owner;
grant select (body), update (body) on hard.secret to "hard reader ""quoted""" with grant option;
grant usage on schema hard, "Ödd schéma" to public;
grant all on sequence hard.never_called to "hard reader ""quoted""";
revoke all on function hard.double(int) from public;
revoke all on hard.tree from postgres;
grant usage on type hard.mood to hard_owner;

create foreign data wrapper hard_wrapper options (debug 'true');
create server hard_server type 'none' version '1' foreign data wrapper hard_wrapper options (host 'example.org');
create user mapping for hard_owner server hard_server options ("user" 'someone');
create foreign table hard.elsewhere (id int options (column_name 'ID'), body text) server hard_server;

set client_min_messages = error; -- no word about wal_level
create publication hard_some for table hard.empty, hard.texts (id, body) where (id > 5) with (publish = 'insert, update');
create publication hard_schema for tables in schema "Ödd schéma" with (publish_via_partition_root);

-- == large objects

select lo_from_bytea(4200001, '\x00015c2e0aff'), lo_from_bytea(4200002, ''), lo_from_bytea(4200004, decode(repeat('0a5c2e0a', 100000), 'hex')) \g /dev/null
select lo_from_bytea(4200003, string_agg(sha256(n::text::bytea), '' order by n)) from generate_series(1, 40000) n \g /dev/null
comment on large object 4200001 is 'a large object''s comment';
grant select on large object 4200001 to "hard reader ""quoted""";
alter large object 4200002 owner to hard_owner;

-- == enough rows that a table is cut into pieces, some of them wide

create table hard.measurements (id bigint primary key, sensor int not null, at timestamptz not null, value float8, note text);
insert into hard.measurements
  select n, n % 97, timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second', sin(n) * 1000, case when n % 10 = 0 then repeat(md5(n::text), n % 5) || E'\t\\.\n' end
  from generate_series(1, 150000) n;
create index on hard.measurements (sensor, at);
create table hard.wide (id int primary key, body text, raw bytea);
insert into hard.wide
  select n, (select string_agg(md5((n * 100000 + m)::text), E'\n' order by m) from generate_series(1, 20000) m), decode(repeat(md5(n::text), 50000), 'hex')
  from generate_series(1, 6) n;

-- One row of as many megabytes; called by tests that want it.
create function hard.add_huge_row(megabytes int) returns void language sql
  as $$ insert into hard.wide values (100 + megabytes, (select string_agg(repeat(md5(m::text), 32768), '' order by m) from generate_series(1, megabytes) m), null) $$;

-- An extension with configuration tables: what users put into them belongs to the dump, what it brought itself does not.
-- tests/run installs it beside the servers that it fetches.
select exists (select from pg_available_extensions where name = 'pgproof_settings') as has_settings \gset
\if :has_settings
create extension pgproof_settings schema hard;
insert into hard.settings values ('users'' own', E'a\tvalue'), ('shipped, changed', 'by the user');
select setval('hard.settings_seen', 42) \g /dev/null
\endif

\if :is_18
create table hard.of_18 (id int, twice int generated always as (id * 2) virtual, during tstzrange, room int4range, body text,
  constraint body_known not null body not valid, constraint id_positive check (id > 0) not enforced,
  primary key (room, during without overlaps));
insert into hard.of_18 (id, during, room, body) values (1, '[2026-01-01 00:00+00,2026-01-02 00:00+00)', '[1,2)', 'x');
\endif

analyze;
