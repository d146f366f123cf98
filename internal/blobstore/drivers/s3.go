package drivers

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://

	"github.com/tinkex/tinkex/internal/blobstore"
)

func init() {
	blobstore.RegisterDriver("s3", blobstore.Driver{Before: keepMetadataServiceOut, Check: checkCredentials, Sweep: abortUploads})
}

// keepMetadataServiceOut has the AWS client not ask a metadata service when it
// finds no credentials, unless that is asked for: away from a rented machine
// it is somebody else's address, and the wait for it hides that credentials
// are missing. The driver takes this setting from the environment only.
func keepMetadataServiceOut() error {
	const name = "AWS_EC2_METADATA_DISABLED"
	if os.Getenv(name) != "" {
		return nil
	}
	return os.Setenv(name, "true")
}

// checkCredentials says what is missing before S3 is asked anything: what the
// client says is about the last of the places where it looked.
func checkCredentials(ctx context.Context, b *blob.Bucket) error {
	var client *s3.Client
	if !b.As(&client) {
		return nil
	}
	from := client.Options().Credentials
	if from == nil || aws.IsCredentialsProvider(from, (*aws.AnonymousCredentials)(nil)) {
		return nil
	}
	if _, err := from.Retrieve(ctx); err != nil {
		return fmt.Errorf("no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "+
			"for those of the machine's role AWS_EC2_METADATA_DISABLED=false: %w", err)
	}
	return nil
}

// abortUploads has S3 forget the parts of uploads that died with their
// process: it keeps them, and has them paid for, until somebody does.
func abortUploads(ctx context.Context, b *blob.Bucket, bucket, prefix string, before time.Time) error {
	var client *s3.Client
	if !b.As(&client) {
		return nil
	}
	in := &s3.ListMultipartUploadsInput{Bucket: aws.String(bucket), Prefix: aws.String(prefix)}
	for {
		out, err := client.ListMultipartUploads(ctx, in)
		if err != nil {
			return err
		}
		for _, up := range out.Uploads {
			if !aws.ToTime(up.Initiated).Before(before) {
				continue
			}
			_, err := client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
				Bucket: in.Bucket, Key: up.Key, UploadId: up.UploadId,
			})
			if err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}
