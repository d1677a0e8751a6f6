create table @extschema@.settings (name text primary key, value text);
insert into @extschema@.settings values ('shipped', 'by the extension');
create sequence @extschema@.settings_seen;
select pg_extension_config_dump('@extschema@.settings', $$where name <> 'shipped'$$);
select pg_extension_config_dump('@extschema@.settings_seen', '');
