--
-- PostgreSQL database cluster dump
--

\restrict XWwHsQYjazP16820AF5UQX9tMJfnWA9DFwfKzVwRZqeeArfSCRr9G0HVBOBIQ5H

SET default_transaction_read_only = off;

SET client_encoding = 'SQL_ASCII';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS;
CREATE ROLE "shop owner";
ALTER ROLE "shop owner" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS PASSWORD 'not a hash';

--
-- User Configurations
--








\unrestrict XWwHsQYjazP16820AF5UQX9tMJfnWA9DFwfKzVwRZqeeArfSCRr9G0HVBOBIQ5H

--
-- PostgreSQL database cluster dump complete
--

