-- One large table of text and numbers, about 250 bytes a row, with a key and an index.
create table orders as
  select id, (hashint8(id) % 100000)::int as customer, (abs(hashint8(id * 7)) % 1000000)::numeric / 100 as price,
    timestamptz '2026-01-01 00:00Z' + id * interval '3 seconds' as placed, body || ' ' || md5(id::text) as note, id % 7 = 0 as paid
  from generate_series(1, :mib * 1024 * 1024 / 250) id join texts on n = 1 + abs(hashint8(id * 13)) % 20000;
alter table orders add primary key (id);
create index on orders (customer);
