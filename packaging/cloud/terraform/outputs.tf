output "location" {
  description = "For repository.location in the policy"
  value       = "s3://${aws_s3_bucket.backups.id}/${var.prefix}"
}

output "roles" {
  description = "ARN of the role for each power"
  value       = { for power, role in aws_iam_role.power : power => role.arn }
}
