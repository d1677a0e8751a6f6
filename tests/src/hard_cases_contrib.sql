-- Extensions of the contrib packages, and XML, which not every build of PostgreSQL has. Run after hard_cases.sql.
\set ON_ERROR_STOP on
set client_min_messages = warning;
set client_encoding = 'UTF8';

create schema extensions;
create extension hstore with schema extensions;
create extension citext with schema extensions;
create extension pg_trgm with schema extensions;
create extension btree_gist with schema extensions;
create extension ltree with schema extensions;
create extension intarray with schema extensions;
create extension postgres_fdw with schema extensions;
create extension unaccent with schema extensions;

create table hard.extended (
  id int primary key, pairs extensions.hstore, email extensions.citext unique, path extensions.ltree, numbers int[],
  document xml, during tstzrange, room int, exclude using gist (room with operator(pg_catalog.=), during with &&)
);
insert into hard.extended values
  (1, 'a=>1, "b c"=>NULL, "q\"uote"=>"x=>y"', 'Some.One@Example.org', 'top.middle.leaf', '{3,1,2}', '<a b="c">ü &amp; <!-- x --></a>', '[2026-01-01 00:00+00,2026-01-02 00:00+00)', 1),
  (2, '', 'other@example.org', '', '{}', 'just text', 'empty', 1);
create index on hard.extended using gin (pairs);
create index on hard.extended using gin ((email::text) extensions.gin_trgm_ops);
create index on hard.extended using gist (path);
create index on hard.extended using gist (numbers extensions.gist__int_ops);

create server remote foreign data wrapper postgres_fdw options (host 'db.example.org', dbname 'app');
create foreign table hard.remote_rows (id int) server remote options (table_name 'rows');

create extension earthdistance with schema extensions cascade;
