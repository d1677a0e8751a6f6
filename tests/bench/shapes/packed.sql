-- Values that were compressed before: random bytes, 32 KiB each. COPY writes them in hexadecimal, twice as long.
create unlogged table pool as
  select n, decode(string_agg(md5(n::text || ' ' || i), ''), 'hex') as bytes
  from generate_series(1, 1024) n, generate_series(1, 1024) i group by n;
create table files (id int primary key, bytes bytea);
alter table files alter bytes set storage external;
insert into files
  select id, a.bytes || b.bytes from generate_series(1, :mib * 32) id
  join pool a on a.n = 1 + abs(hashint8(id)) % 1024 join pool b on b.n = 1 + abs(hashint8(id * 3)) % 1024;
drop table pool;
