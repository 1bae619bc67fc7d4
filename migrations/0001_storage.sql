-- Accounts and hosts are rewritten all the time: room on each page lets PostgreSQL keep the new version of a row
-- beside the old one, without touching the indexes, and early vacuuming keeps the tables from growing.
ALTER TABLE "accounts" SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);
--> statement-breakpoint
ALTER TABLE "hosts" SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
--> statement-breakpoint
ALTER TABLE "state_position" SET (fillfactor = 10);
